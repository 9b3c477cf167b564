// What computes: the CPU, or one GPU a rank.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/tiles/ranks.h"

namespace ptyle::driver {

// By config.device, for a rank by itself: "auto" takes a GPU where there is one that works, and
// says why not where there is one that does not. ConfigError where "cuda" cannot be had, naming
// what is missing.
at::Device choose_device(const Config& config);
// The sentence of that ConfigError; empty where a run here has what config.device asks for.
std::string refused_device(const Config& config);

// The same for all ranks, each with its own choice: the CPU where one has no GPU; else those of one
// machine take its GPUs in turn, whatever their launcher tells them. ConfigError where two of them
// would share one (NCCL_MULTI_RANK_GPU_ENABLE=1 lets them) and config.device is "cuda".
at::Device agree_on_device(const Config& config, const at::Device& mine, const Ranks& ranks);

// The GPU of each rank on its machine: by the order of the ranks there. hosts, devices: by rank, a
// number that tells machines apart, and how many GPUs a rank sees.
std::vector<std::int64_t> gpus_of_ranks(const std::vector<std::int64_t>& hosts,
                                        const std::vector<std::int64_t>& devices);

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
