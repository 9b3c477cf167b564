#include "driver/engine/state.h"

namespace ptyle::driver {

double State::number(const std::string& name) const {
  const auto found = numbers.find(name);
  return found == numbers.end() ? 0.0 : found->second;
}

std::string State::change_lines() const {
  std::string lines;
  for (const std::string& line : changes) lines += line + "\n";
  return lines;
}

}  // namespace ptyle::driver
