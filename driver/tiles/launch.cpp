#include "driver/tiles/launch.h"

#include <charconv>
#include <cstdlib>
#include <sys/socket.h>
#include <unistd.h>

#include <netdb.h>
#include <netinet/in.h>

#include "driver/errors.h"

namespace ptyle::driver {
namespace {

struct Names {
  const char *rank, *size, *local_rank, *source;
};

constexpr Names kLaunchers[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "RANK and WORLD_SIZE"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "Open MPI"},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "PMI_RANK and PMI_SIZE"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM"},
};

std::int64_t integer(const char* name, const std::string& text, std::int64_t least,
                     std::int64_t most) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    throw ConfigError(std::string(name) + ": must be an integer from " + std::to_string(least) +
                      " to " + std::to_string(most) + ", got \"" + text + "\"");
  }
  return value;
}

// The first host of SLURM's list: node[003-007,9],login -> node003
std::string first_host(const std::string& list) {
  const std::size_t bracket = list.find('[');
  const std::size_t comma = list.find(',');
  if (bracket == std::string::npos || comma < bracket) return list.substr(0, comma);
  const std::size_t end = list.find_first_of(",-]", bracket);
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1);
}

// A port that all ranks of a job find, and another job seldom has.
std::int64_t port_of(const std::string& job) {
  std::uint32_t hash = 2166136261U;
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return 20000 + hash % 20000;
}

void find_meeting(const Environment& environment, Launch& launch) {
  const auto address = environment("MASTER_ADDR");
  const auto port = environment("MASTER_PORT");
  if (address) launch.address = *address;
  if (port) launch.port = integer("MASTER_PORT", *port, 1, 65535);
  if (address && port) return;
  if (launch.source == "SLURM") {
    const auto nodes = environment("SLURM_STEP_NODELIST");
    if (!address && nodes) launch.address = first_host(*nodes);
    if (!port) launch.port = port_of(environment("SLURM_JOB_ID").value_or("0"));
  } else if (launch.source == "Open MPI") {
    const auto local = environment("OMPI_COMM_WORLD_LOCAL_SIZE");
    if (!address && local && *local == std::to_string(launch.size)) launch.address = "127.0.0.1";
    if (!port) {
      launch.port = port_of(environment("PMIX_NAMESPACE")
                                .value_or(environment("OMPI_MCA_orte_hnp_uri").value_or("ptyle")));
    }
  }
  if (launch.address.empty()) {
    throw ConfigError("MASTER_ADDR: must name the host of rank 0, got nothing (" + launch.words() +
                      ")");
  }
  if (launch.port == 0) {
    throw ConfigError("MASTER_PORT: must be a free port on the host of rank 0, got nothing (" +
                      launch.words() + ")");
  }
}

}  // namespace

std::optional<std::string> from_process(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

std::string Launch::words() const {
  if (source.empty()) return "one rank";
  std::string text = "rank " + std::to_string(rank) + " of " + std::to_string(size) +
                     " (local rank " + std::to_string(local_rank) + "), from " + source;
  if (size > 1 && !address.empty()) {
    text += "; meeting at " + address + ":" + std::to_string(port) +
            (agent_store ? " (torchrun's store)" : "");
  }
  return text;
}

std::string own_address(const std::string& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), "9", &hints, &found) != 0) return {};
  std::string own;
  for (const addrinfo* at = found; at != nullptr && own.empty(); at = at->ai_next) {
    const int socket = ::socket(at->ai_family, SOCK_DGRAM, 0);
    if (socket < 0) continue;
    // Connecting a datagram socket sends nothing: it only finds the way.
    sockaddr_storage name{};
    socklen_t size = sizeof(name);
    char text[INET6_ADDRSTRLEN] = "";
    auto* generic = reinterpret_cast<sockaddr*>(&name);
    if (connect(socket, at->ai_addr, at->ai_addrlen) == 0 &&
        getsockname(socket, generic, &size) == 0 &&
        getnameinfo(generic, size, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0) {
      own = text;
    }
    close(socket);
  }
  freeaddrinfo(found);
  return own;
}

Launch find_launch(const Environment& environment) {
  Launch launch;
  for (const Names& names : kLaunchers) {
    const auto rank = environment(names.rank);
    const auto size = environment(names.size);
    if (!rank && !size) continue;
    const bool slurm = std::string(names.source) == "SLURM";
    // sbatch sets these for the script too; only srun starts ranks.
    if (slurm && !environment("SLURM_STEP_ID")) continue;
    if (!rank || !size) {
      throw ConfigError(std::string(rank ? names.size : names.rank) + ": must be set where " +
                        (rank ? names.rank : names.size) + " is, got nothing");
    }
    launch.size = integer(names.size, *size, 1, 1'000'000);
    launch.rank = integer(names.rank, *rank, 0, launch.size - 1);
    if (const auto local = environment(names.local_rank)) {
      launch.local_rank = integer(names.local_rank, *local, 0, 1'000'000);
    }
    launch.source = names.source;
    if (launch.size == 1) return launch;
    launch.agent_store = environment("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True";
    if (launch.agent_store) {
      launch.prefix = "/worker/attempt_" + environment("TORCHELASTIC_RESTART_COUNT").value_or("0");
    }
    find_meeting(environment, launch);
    return launch;
  }
  return launch;
}

}  // namespace ptyle::driver
