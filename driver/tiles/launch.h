// Which rank this process is: torchrun, SLURM, MPI's launchers, or plain environment variables.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace ptyle::driver {

struct Launch {
  std::int64_t rank = 0, size = 1, local_rank = 0;
  std::string source;   // where that was found: "RANK and WORLD_SIZE"; empty: one rank
  std::string address;  // of the store where ranks meet
  std::int64_t port = 0;
  bool agent_store = false;  // torchrun's agent holds the store: nobody of us does
  std::string prefix;        // of all keys: attempts of torchrun do not mix
  // "rank 1 of 4 (local rank 1), from RANK and WORLD_SIZE; meeting at node7:29500"
  std::string words() const;
};

using Environment = std::function<std::optional<std::string>(const char*)>;
std::optional<std::string> from_process(const char* name);

// This machine's address as the other ranks see it: of the interface that leads to `address`. Empty
// where there is no way.
std::string own_address(const std::string& address);

// First found wins: RANK and WORLD_SIZE (torchrun); Open MPI; MPICH and Intel MPI; a SLURM step.
// ConfigError where a variable is missing or wrong.
Launch find_launch(const Environment& environment = from_process);

}  // namespace ptyle::driver
