// Batched 2-D transforms by cuFFT: plans of our own, work areas from torch's allocator, on the
// current stream.
#pragma once

#include <cstdint>

namespace ptyle::cuda {

// `count` complex waves [height, width] at `waves`, in place, not scaled, on the current device and
// stream. Throws c10::Error that names the size and cuFFT's code.
void transform(void* waves, int64_t height, int64_t width, int64_t count, bool precise,
               bool inverse);

}  // namespace ptyle::cuda
