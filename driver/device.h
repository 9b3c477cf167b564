// What computes: the CPU, or one GPU a rank.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/tiles/launch.h"

namespace ptyle::driver {

// By config.device: "auto" takes the GPU of the rank's number on its machine where there is one.
// ConfigError where "cuda" cannot be had, naming what is missing.
at::Device choose_device(const Config& config, const Launch& launch);

// "the CPU (fused v4, 8 threads)" | "GPU 0 (NVIDIA H100)"; window: that of the patterns.
std::string words_for(const at::Device& device, IntegerPair window);

// The same for `ptyle check`, where a GPU that is asked for may be another machine's: what a run
// here would say.
std::string words_for(const Config& config, IntegerPair window);

// What a rank has free there for its tensors, and the most it took since the last restart.
std::int64_t free_bytes(const at::Device& device);
std::int64_t most_bytes(const at::Device& device);
void restart_most_bytes(const at::Device& device);

}  // namespace ptyle::driver
