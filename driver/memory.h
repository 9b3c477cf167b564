// Memory: how much is free, and how much of it this program's tensors take. What does not fit is
// refused before it drags the machine down.
#pragma once

#include <cstdint>
#include <string>

namespace ptyle::driver {

// Memory that is free, as the system counts it; the largest number where it does not say.
std::int64_t available_bytes();

// The most memory that this process has held, as the system counts it.
std::int64_t peak_resident_bytes();

std::string gigabytes(double bytes);  // "3.2 GB"

// Counts the bytes of tensors from now on.
void count_tensor_bytes();
// The most that were alive at once since the count began or was last started anew.
std::int64_t most_tensor_bytes();
void restart_most_tensor_bytes();

}  // namespace ptyle::driver
