#include "driver/engine/run.h"

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <sys/resource.h>
#include <unistd.h>
#include <vector>

#include <ATen/Parallel.h>

#include "driver/check/check.h"
#include "driver/engine/checkpoint.h"
#include "driver/engine/engine.h"
#include "driver/engine/result.h"
#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/io/metrics.h"
#include "driver/io/problem.h"
#include "driver/log.h"
#include "driver/progress.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;

std::atomic<bool> stop_asked{false};

// The first signal asks for an orderly end; a second one, of either kind, ends the program at once.
extern "C" void ask_to_stop(int signal) {
  if (stop_asked.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

// Takes SIGINT and SIGTERM for the time of a run. A signal that was ignored from the start (nohup,
// a job in a script's background) stays ignored.
class Signals {
 public:
  Signals() {
    stop_asked.store(false);
    for (std::size_t k = 0; k < kSignals.size(); ++k) {
      sigaction(kSignals[k], nullptr, &before_[k]);
      if (before_[k].sa_handler == SIG_IGN) continue;
      struct sigaction action {};
      action.sa_handler = ask_to_stop;
      sigemptyset(&action.sa_mask);
      action.sa_flags = SA_RESTART;
      sigaction(kSignals[k], &action, nullptr);
    }
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  ~Signals() {
    for (std::size_t k = 0; k < kSignals.size(); ++k) {
      sigaction(kSignals[k], &before_[k], nullptr);
    }
  }

 private:
  static constexpr std::array<int, 2> kSignals{SIGINT, SIGTERM};
  std::array<struct sigaction, 2> before_{};
};

// One thread while it lives. Loading, the start and the result's probe go through reductions of
// ATen, which split by threads: their last bits, and with them all of a run, would depend on how
// many.
class OneThread {
 public:
  OneThread() : threads_(at::get_num_threads()) { at::set_num_threads(1); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
  ~OneThread() { at::set_num_threads(threads_); }

 private:
  int threads_;
};

constexpr std::array<const char*, 7> kOwnFiles = {
    "checkpoint.h5",        "result.h5", "metrics.jsonl", "object_phase.png",
    "object_amplitude.png", "probe.png", "config.toml"};

// What a run leaves that failed before its first checkpoint: a config and metrics.
bool has_no_result(const std::string& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name != "config.toml" && name != "metrics.jsonl" &&
        name.find(".tmp.") == std::string::npos) {
      return false;
    }
  }
  return true;
}

// Asked before the data is read: a wrong folder should not cost the minutes that takes.
void check_folder(const std::string& folder, const RunOptions& options) {
  std::error_code error;
  if (!fs::exists(folder, error)) {
    fs::path above = fs::absolute(folder, error).lexically_normal().parent_path();
    while (!fs::exists(above, error) && above.has_relative_path()) above = above.parent_path();
    if (!fs::is_directory(above, error) || access(above.c_str(), W_OK) != 0) {
      throw ConfigError("output.folder: must lie in a folder that can be written, got " + folder);
    }
    return;
  }
  if (!fs::is_directory(folder, error)) {
    throw ConfigError("output.folder: must be a folder, got the file " + folder);
  }
  if (options.overwrite || fs::is_empty(folder, error)) return;
  if (!options.resume) {
    if (has_no_result(folder)) return;
    throw ConfigError(
        "output.folder: must be new or empty (--resume goes on from its checkpoint, --overwrite "
        "replaces its files), got " +
        folder);
  }
  if (fs::exists(fs::path(folder) / "checkpoint.h5", error)) return;
  if (!has_no_result(folder)) {
    throw ConfigError("output.folder: must hold a checkpoint.h5 to resume from, got " + folder +
                      " with other files and no checkpoint");
  }
}

void prepare_folder(const std::string& folder, const RunOptions& options) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw ConfigError("output.folder: must be a folder that can be written, got " + folder + " (" +
                      error.message() + ")");
  }
  // What a run that was killed while writing left behind.
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    for (const char* own : kOwnFiles) {
      if (name.rfind(std::string(own) + ".tmp.", 0) == 0) leftovers.push_back(entry.path());
    }
  }
  for (const fs::path& path : leftovers) fs::remove(path, error);
  if (options.overwrite) {
    for (const char* name : kOwnFiles) fs::remove(fs::path(folder) / name, error);
  }
}

std::int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

// A run that does not fit would drag the whole machine down before it is killed.
void refuse_too_much_memory(const Config& config, const Problem& problem) {
  std::ifstream in("/proc/meminfo");
  std::string word;
  while (in >> word && word != "MemAvailable:") {
  }
  std::int64_t available_KiB = 0;
  if (!(in >> available_KiB)) return;
  const auto gigabytes = [](std::int64_t bytes) {
    return std::to_string(bytes / 1000000000) + "." + std::to_string(bytes / 100000000 % 10) +
           " GB";
  };
  // The patterns are in memory already, and counted in neither.
  const std::int64_t needed =
      predicted_bytes(config, problem) - static_cast<std::int64_t>(problem.patterns.nbytes());
  if (needed > available_KiB * 1024) {
    throw RunError("the run must fit into the memory that is free, " +
                   gigabytes(available_KiB * 1024) + ", got a need of about " + gigabytes(needed) +
                   " (object.slices, padding, probe.modes, reconstruct.history; `ptyle check` says "
                   "what)");
  }
}

void refuse_several_ranks() {
  const char* world = std::getenv("WORLD_SIZE");
  if (world != nullptr && std::string(world) != "1") {
    throw ConfigError(
        std::string("WORLD_SIZE: must be 1, since this version runs on one rank, got ") + world);
  }
}

}  // namespace

void run(const Config& config, const RunOptions& options) {
  refuse_several_ranks();
  const std::string& folder = config.output.folder;
  const std::string checkpoint = folder + "/checkpoint.h5";
  check_folder(folder, options);
  const Signals signals;
  std::optional<OneThread> one_thread(std::in_place);
  const Problem problem = load_problem(config);
  one_thread.reset();
  refuse_too_much_memory(config, problem);
  one_thread.emplace();
  Engine engine(config, problem);
  const std::string data = engine.fingerprint();
  State state;
  if (options.resume && fs::exists(checkpoint)) {
    state = read_checkpoint(checkpoint, config, data);
    log_info() << "resuming " << checkpoint << " after iteration " << state.iteration
               << (state.batch > 0 ? " and " + std::to_string(state.batch) + " batches" : "");
  } else {
    if (options.resume) log_info() << "no checkpoint in " << folder << " yet: starting anew";
    state = engine.start();
  }
  one_thread.reset();
  // Everything about config and data has been checked: only now is something written.
  prepare_folder(folder, options);
  hdf5::write_text_atomically(folder + "/config.toml", to_toml(config));
  MetricsWriter metrics(folder + "/metrics.jsonl", state.iteration);
  log_info() << engine.positions() << " positions, window " << problem.window[0] << " x "
             << problem.window[1] << ", object " << problem.object_shape[0] << " x "
             << problem.object_shape[1] << " x " << problem.object_shape[2] << ", into " << folder;

  if (config.reconstruct.batches > engine.positions()) {
    log_warning() << "reconstruct.batches = " << config.reconstruct.batches << " is more than the "
                  << engine.positions() << " positions: every batch has one";
  }
  const auto stop = [] { return stop_asked.load(); };
  const std::int64_t last = config.reconstruct.iterations;
  {
    Progress progress(state.iteration, last, engine.positions());
    while (state.iteration < last && !stop()) {
      if (!engine.iterate(state, stop,
                          [&](std::int64_t positions) { progress.positions_done(positions); })) {
        break;
      }
      IterationMetrics row;
      row.iteration = state.iteration;
      row.loss = state.history.loss.back();
      row.amplitude_error = state.history.amplitude_error.back();
      row.seconds = state.history.seconds.back();
      row.positions_per_second =
          row.seconds > 0 ? static_cast<double>(engine.positions()) / row.seconds : 0.0;
      row.peak_bytes = peak_bytes();
      metrics.write(row);
      progress.iteration_done(row.iteration, row.amplitude_error, row.positions_per_second);
      const std::int64_t every = config.output.checkpoint_every;
      if (every > 0 && state.iteration % every == 0 && state.iteration < last) {
        write_checkpoint(checkpoint, state, config, data);
      }
    }
  }
  write_checkpoint(checkpoint, state, config, data);
  one_thread.emplace();
  write_result(folder + "/result.h5", state, config, problem);
  if (config.output.png) write_pictures(folder, state, problem);
  if (state.iteration < last) {
    throw Interrupted("interrupted in iteration " + std::to_string(state.iteration + 1) + " of " +
                      std::to_string(last) + ": everything is saved in " + folder +
                      ", --resume goes on");
  }
  const std::vector<double>& error = state.history.amplitude_error;
  if (error.size() > 1 && !(error.back() < error.front())) {
    log_warning() << "the amplitude_error did not fall (" << error.front() << " in the first "
                  << "iteration, " << error.back() << " in the last): check the geometry with "
                  << "`ptyle check`, or shorten the steps";
  }
  if (error.empty()) {
    log_info() << "no iterations were asked for; the start is in " << folder << "/result.h5";
  } else {
    log_info() << "amplitude_error " << error.back() << " after " << state.iteration
               << " iterations; result in " << folder << "/result.h5";
  }
}

}  // namespace ptyle::driver
