#include "driver/memory.h"

#include <cstdio>
#include <fstream>
#include <limits>

namespace ptyle::driver {

std::int64_t available_bytes() {
  std::ifstream in("/proc/meminfo");
  std::string word;
  while (in >> word && word != "MemAvailable:") {
  }
  std::int64_t available_KiB = 0;
  if (!(in >> available_KiB)) return std::numeric_limits<std::int64_t>::max();
  return available_KiB * 1024;
}

std::string gigabytes(double bytes) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.3g GB", bytes / 1e9);
  return text;
}

}  // namespace ptyle::driver
