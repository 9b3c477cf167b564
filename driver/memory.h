// How much memory there is: what does not fit is refused before it drags the machine down.
#pragma once

#include <cstdint>
#include <string>

namespace ptyle::driver {

// Memory that is free, as the system counts it; the largest number where it does not say.
std::int64_t available_bytes();

std::string gigabytes(double bytes);  // "3.2 GB"

}  // namespace ptyle::driver
