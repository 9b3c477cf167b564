// Numbers as messages, `check` and doubts write them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace ptyle::driver::words {

inline std::string number(double value, int digits = 4) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.*g", digits, value);
  return text;
}

// With all its digits.
inline std::string exact(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.*g", value == std::floor(value) ? 17 : 10, value);
  return text;
}

// "object, probe".
inline std::string listed(const std::vector<std::string>& words, const char* between = ", ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

// "[3, 64, 64]".
template <typename Sizes = std::vector<std::int64_t>>
std::string shape(const Sizes& sizes) {
  std::string text = "[";
  for (const auto size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

// "1 pixel", "3 pixels".
inline std::string counted(std::int64_t count, const std::string& one) {
  const char* const ending = count == 1 ? "" : one.ends_with("ch") ? "es" : "s";
  return std::to_string(count) + " " + one + ending;
}

inline std::string by(std::int64_t rows, std::int64_t columns) {
  return std::to_string(rows) + " x " + std::to_string(columns);
}

// A length in the unit that suits it.
inline std::string length(double angstrom) {
  const double size = std::abs(angstrom);
  if (size >= 1e10) return number(angstrom / 1e10) + " m";
  if (size >= 1e7) return number(angstrom / 1e7) + " mm";
  if (size >= 1e4) return number(angstrom / 1e4) + " um";
  if (size >= 10.0) return number(angstrom / 10.0) + " nm";
  return number(angstrom) + " A";
}

inline std::string bytes(std::int64_t count) {
  const auto value = static_cast<double>(count);
  if (value >= 1e9) return number(value / 1e9, 3) + " GB";
  if (value >= 1e6) return number(value / 1e6, 3) + " MB";
  return number(value / 1e3, 3) + " kB";
}

}  // namespace ptyle::driver::words
