#include "driver/tiles/meeting.h"

#include <algorithm>
#include <sstream>
#include <unistd.h>
#include <vector>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "driver/errors.h"
#include "driver/log.h"
#include "driver/tiles/groups.h"

namespace ptyle::driver {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kBeat{1000}, kPoll{20};
// Of operations of the group. A rank that is gone is noticed by the watch long before; a slow one
// is waited for.
constexpr std::chrono::hours kPatience{24};

// Gloo's messages begin with a line of its source and end with advice.
std::string essence_of(const std::string& symptom) {
  // NCCL's own words come last.
  constexpr std::string_view kLast = "Last error:";
  if (const std::size_t last = symptom.find(kLast); last != std::string::npos) {
    const std::size_t from = symptom.find_first_not_of(" \n", last + kLast.size());
    if (from != std::string::npos) return symptom.substr(from, symptom.find('\n', from) - from);
  }
  std::string text = symptom.substr(0, symptom.find('\n'));
  const std::size_t begin = text.find("[/"), end = text.find("] ", begin);
  if (begin != std::string::npos && end != std::string::npos) text.erase(begin, end + 2 - begin);
  return text.substr(0, text.find(". This is typically"));
}

std::string first_line(const std::exception& error) { return essence_of(error.what()); }

constexpr const char* kDiffer = "all ranks must have the same config, data and grid";

// What another rank wrote: a difference is everybody's.
[[noreturn]] void refuse(const std::string& failure) {
  if (failure.find(kDiffer) != std::string::npos) throw ConfigError(failure);
  throw PeerError(failure);
}

c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch, bool serve,
                                           std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(launch.port);
  options.isServer = serve;
  options.waitWorkers = false;
  options.timeout = timeout;
  c10::intrusive_ptr<c10d::Store> store =
      c10::make_intrusive<c10d::TCPStore>(launch.address, options);
  return c10::make_intrusive<c10d::PrefixStore>(launch.prefix + "/ptyle", store);
}

bool serves(const Launch& launch) { return launch.rank == 0 && !launch.agent_store; }

std::string numbered(const char* key, std::int64_t rank) {
  return std::string(key) + "/" + std::to_string(rank);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string list_of(const std::vector<std::int64_t>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t k = 0; k < ranks.size(); ++k) {
    text += (k > 0 ? ", " : "") + std::to_string(ranks[k]);
    if (k == 9 && ranks.size() > 10)
      return text + " and " + std::to_string(ranks.size() - 10) + " more";
  }
  return text;
}

}  // namespace

Meeting::Meeting(const Launch& launch, const std::string& agreement, std::chrono::seconds timeout)
    : launch_(launch), timeout_(timeout) {
  const std::string place = launch.address + ":" + std::to_string(launch.port);
  try {
    store_ = open_store(launch, serves(launch), timeout);
  } catch (const std::exception& error) {
    const std::string why = first_line(error);
    if (serves(launch)) {
      throw RunError("MASTER_PORT: must be a free port on " + launch.address + ", got " +
                     std::to_string(launch.port) + " (" + why + ")");
    }
    throw PeerError("rank 0 must be reached at " + place + " within " +
                    std::to_string(timeout.count()) + " s, but was not (" + why + ")");
  }
  come();
  agree(agreement);
  // Gloo waits as long as it has patience for a rank that ends now: the watch notices it.
  try {
    watch_store_ = open_store(launch, false, timeout);
    watch_ = std::thread([this] { watch(); });
    if (!serves(launch_)) guard_ = std::thread([this] { guard(); });
    group_ = gloo_group(store_, launch.rank, launch.size, kPatience, own_address(launch.address));
  } catch (const std::exception& error) {
    const std::string failure = find_failure(error.what());
    end_watch();
    throw PeerError("the ranks could not be connected: " + failure);
  }
}

void Meeting::connect(const at::Device& device) {
  try {
    add_nccl(group_, store_, kPatience, device);
  } catch (const std::exception& error) {
    throw PeerError("the ranks' GPUs could not be connected (" + essence_of(error.what()) + ")");
  }
  on_device_ = true;
}

// Whoever comes second, by mistake or from another job, must not end those who were first.
void Meeting::come() {
  std::int64_t times = 0;
  try {
    times = store_->add(numbered("came", launch_.rank), 1);
  } catch (const std::exception&) {
    return;  // `agree` says it
  }
  if (times == 1) return;
  throw ConfigError("RANK: must be another one for every process of a job, but a rank " +
                    std::to_string(launch_.rank) + " is at " + launch_.address + ":" +
                    std::to_string(launch_.port) +
                    " already (or MASTER_PORT is that of another job)");
}

// Everybody's lines are those of rank 0.
void Meeting::agree(const std::string& agreement) {
  try {
    store_->set(numbered("here", launch_.rank), std::vector<std::uint8_t>{1});
    if (launch_.rank == 0) {
      store_->set("agreement", std::vector<std::uint8_t>(agreement.begin(), agreement.end()));
    } else {
      store_->wait({"agreement"}, timeout_);
      if (const std::string failure = failure_written(); !failure.empty()) refuse(failure);
      const std::vector<std::uint8_t> bytes = store_->get("agreement");
      const std::vector<std::string> first = lines_of(std::string(bytes.begin(), bytes.end()));
      const std::vector<std::string> mine = lines_of(agreement);
      for (std::size_t k = 0; k < std::max(first.size(), mine.size()); ++k) {
        const std::string a = k < first.size() ? first[k] : "nothing";
        const std::string b = k < mine.size() ? mine[k] : "nothing";
        if (a != b) {
          const std::string what = std::string(kDiffer) + ", but rank 0 has " + a + ", and rank " +
                                   std::to_string(launch_.rank) + " has " + b;
          report(what);
          throw ConfigError(what);
        }
      }
    }
    store_->add("agreed", 1);
    const auto begin = Clock::now();
    while (store_->add("agreed", 0) < launch_.size) {
      if (const std::string failure = failure_written(); !failure.empty()) refuse(failure);
      if (Clock::now() - begin > timeout_) {
        std::vector<std::int64_t> missing;
        for (std::int64_t rank = 0; rank < launch_.size; ++rank) {
          if (!store_->check({numbered("here", rank)})) missing.push_back(rank);
        }
        const std::string failure = "all " + std::to_string(launch_.size) +
                                    " ranks must come within " + std::to_string(timeout_.count()) +
                                    " s, but not " +
                                    (missing.empty() ? "all agreed" : list_of(missing) + " did") +
                                    " (is WORLD_SIZE right?)";
        report(failure);
        throw PeerError(failure);
      }
      std::this_thread::sleep_for(kPoll);
    }
  } catch (const Error&) {
    let_others_know();
    throw;
  } catch (const std::exception& error) {
    throw PeerError("rank 0, which holds the store, must answer within " +
                    std::to_string(timeout_.count()) + " s, but did not (" + first_line(error) +
                    ")");
  }
}

void Meeting::let_others_know() {
  try {
    store_->add("told", 1);
    if (!serves(launch_)) return;
    const auto last = std::max(began_ + timeout_, Clock::now() + 2 * kBeat);
    while (store_->add("told", 0) < launch_.size && Clock::now() < last) {
      std::this_thread::sleep_for(kPoll);
    }
  } catch (const std::exception&) {
    // Nobody to tell.
  }
}

std::string Meeting::failure_written() {
  if (!store_->check({"failed"})) return {};
  const std::vector<std::uint8_t> bytes = store_->get("failed");
  return {bytes.begin(), bytes.end()};
}

void Meeting::report(const std::string& failure) {
  ending_ = true;
  try {
    // The first one counts: what follows from it is not the cause.
    store_->compareSet("failed", {}, std::vector<std::uint8_t>(failure.begin(), failure.end()));
    if (serves(launch_)) std::this_thread::sleep_for(3 * kBeat);  // while the others read it
  } catch (const std::exception&) {
    // Nobody to tell.
  }
}

std::string Meeting::find_failure(const std::string& symptom) {
  ending_ = true;
  const std::string from = "; noticed as: " + essence_of(symptom);
  try {
    const auto written = [this] { return failure_written(); };
    if (const std::string failure = written(); !failure.empty()) return failure;
    // Who does not count any more? Those that are about to report what happened to them do.
    std::vector<std::int64_t> before, silent;
    for (std::int64_t rank = 0; rank < launch_.size; ++rank) {
      before.push_back(store_->add(numbered("beats", rank), 0));
    }
    for (int k = 0; k < 4; ++k) {
      std::this_thread::sleep_for(kBeat);
      if (const std::string failure = written(); !failure.empty()) return failure;
    }
    for (std::int64_t rank = 0; rank < launch_.size; ++rank) {
      if (rank != launch_.rank &&
          store_->add(numbered("beats", rank), 0) == before[static_cast<std::size_t>(rank)]) {
        silent.push_back(rank);
      }
    }
    const std::string failure = silent.empty()
                                    ? "an exchange between ranks failed" + from
                                    : list_of(silent) + " ended without a word (killed?)" + from;
    report(failure);
    return failure;
  } catch (const std::exception& error) {
    return "rank 0, which holds the store, does not answer any more (killed?)" + from;
  }
}

void Meeting::end_with(const std::string& failure) const {
  log_error() << failure;
  // Destructors of a broken group may wait for ever.
  _exit(75);
}

void Meeting::watch() {
  const std::int64_t neighbour = (launch_.rank + 1) % launch_.size;
  std::int64_t last = -1;
  auto last_change = Clock::now();
  while (!over_) {
    ++watch_rounds_;
    try {
      watch_store_->add(numbered("beats", launch_.rank), 1);
      if (watch_store_->check({"failed"}) && !ending_) {
        const std::vector<std::uint8_t> bytes = watch_store_->get("failed");
        // The main thread may be about to say it itself.
        std::this_thread::sleep_for(kBeat);
        if (!ending_ && !over_) end_with(std::string(bytes.begin(), bytes.end()));
      }
      const std::int64_t beats = watch_store_->add(numbered("beats", neighbour), 0);
      if (beats != last) {
        last = beats;
        last_change = Clock::now();
      } else if (Clock::now() - last_change > timeout_ && !ending_ && !over_) {
        const std::string failure = "rank " + std::to_string(neighbour) +
                                    " has not been heard of for " +
                                    std::to_string(timeout_.count()) + " s (stopped?)";
        ending_ = true;
        watch_store_->compareSet("failed", {},
                                 std::vector<std::uint8_t>(failure.begin(), failure.end()));
        if (serves(launch_)) std::this_thread::sleep_for(3 * kBeat);
        end_with(failure);
      }
    } catch (const std::exception& error) {
      if (!over_ && !ending_) {
        std::this_thread::sleep_for(kBeat);
        if (!over_ && !ending_) {
          end_with("rank 0, which holds the store, does not answer any more (killed or stopped?)");
        }
      }
      return;
    }
    for (int k = 0; k < 10 && !over_; ++k) std::this_thread::sleep_for(kBeat / 10);
  }
}

void Meeting::guard() {
  std::int64_t last = -1;
  auto last_change = Clock::now();
  while (!over_) {
    if (const std::int64_t rounds = watch_rounds_; rounds != last) {
      last = rounds;
      last_change = Clock::now();
    } else if (Clock::now() - last_change > timeout_) {
      end_with(
          std::string(launch_.agent_store ? "torchrun's store" : "rank 0, which holds the store,") +
          " has not answered for " + std::to_string(timeout_.count()) + " s (stopped?)");
    }
    for (int k = 0; k < 10 && !over_; ++k) std::this_thread::sleep_for(kBeat / 10);
  }
}

void Meeting::leave() {
  try {
    if (on_device_) group_->getBackend(c10::DeviceType::CUDA)->shutdown();
    // Rank 0 holds the store until nobody needs it.
    store_->add("left", 1);
    if (serves(launch_)) {
      const auto begin = Clock::now();
      while (store_->add("left", 0) < launch_.size && Clock::now() - begin < timeout_) {
        std::this_thread::sleep_for(kPoll);
      }
    }
  } catch (const std::exception&) {
    // Everything is done and written.
  }
  over_ = true;
}

Meeting::~Meeting() {
  if (on_device_ && !over_) {  // a failure: messages that wait for others are given up
    try {
      group_->getBackend(c10::DeviceType::CUDA)->abort();
    } catch (const std::exception&) {
      // What failed first is what counts.
    }
  }
  end_watch();
}

void Meeting::end_watch() {
  over_ = true;
  for (std::thread* thread : {&watch_, &guard_}) {
    if (thread->joinable()) thread->join();
  }
}

void report_before_meeting(const Launch& launch, const std::string& failure) {
  if (launch.size == 1) return;
  try {
    const bool serve = serves(launch);
    const auto store = open_store(launch, serve, std::chrono::seconds(5));
    if (store->add(numbered("came", launch.rank), 1) > 1) return;  // not of this job
    const std::string text =
        "rank " + std::to_string(launch.rank) + " failed before the start: " + failure;
    store->compareSet("failed", {}, std::vector<std::uint8_t>(text.begin(), text.end()));
    store->add("told", 1);
    if (serve) {
      store->set("agreement", std::vector<std::uint8_t>(text.begin(), text.end()));
      std::this_thread::sleep_for(3 * kBeat);
    }
  } catch (const std::exception&) {
    // The others find out by themselves, within the timeout.
  }
}

}  // namespace ptyle::driver
