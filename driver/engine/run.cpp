#include "driver/engine/run.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <sys/resource.h>
#include <vector>

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

// The first signal asks for an orderly end; a second one ends the program at once.
extern "C" void ask_to_stop(int signal) {
  stop_asked.store(true);
  std::signal(signal, SIG_DFL);
}

const char* const kOwnFiles[] = {
    "checkpoint.h5",        "result.h5", "metrics.jsonl", "object_phase.png",
    "object_amplitude.png", "probe.png", "config.toml"};

void prepare_folder(const std::string& folder, const RunOptions& options) {
  std::error_code error;
  if (fs::exists(folder) && !fs::is_directory(folder)) {
    throw ConfigError("output.folder: must be a folder, got the file " + folder);
  }
  const bool used = fs::is_directory(folder) && !fs::is_empty(folder, error);
  if (used && options.overwrite) {
    for (const char* name : kOwnFiles) fs::remove(fs::path(folder) / name, error);
  } else if (used && !options.resume) {
    throw ConfigError(
        "output.folder: must be new or empty (--resume goes on from its checkpoint, --overwrite "
        "replaces its files), got " +
        folder);
  }
  fs::create_directories(folder, error);
  if (error) {
    throw ConfigError("output.folder: must be a folder that can be written, got " + folder + " (" +
                      error.message() + ")");
  }
}

std::int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
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
  const Problem problem = load_problem(config);
  Engine engine(config, problem);
  // Everything about config and data has been checked: only now is something written.
  const std::string& folder = config.output.folder;
  const std::string checkpoint = folder + "/checkpoint.h5";
  State state;
  const bool resumed = options.resume && fs::exists(checkpoint);
  if (resumed) {
    state = read_checkpoint(checkpoint, config);
    log_info() << "resuming " << checkpoint << " after iteration " << state.iteration
               << (state.batch > 0 ? " and " + std::to_string(state.batch) + " batches" : "");
  } else {
    if (options.resume) log_info() << "no checkpoint in " << folder << " yet: starting anew";
    state = engine.start();
  }
  prepare_folder(folder, options);
  hdf5::write_text_atomically(folder + "/config.toml", to_toml(config));
  MetricsWriter metrics(folder + "/metrics.jsonl", state.iteration);
  log_info() << engine.positions() << " positions, window " << problem.window[0] << " x "
             << problem.window[1] << ", object " << problem.object_shape[0] << " x "
             << problem.object_shape[1] << " x " << problem.object_shape[2] << ", into " << folder;

  stop_asked.store(false);
  std::signal(SIGINT, ask_to_stop);
  std::signal(SIGTERM, ask_to_stop);
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
        write_checkpoint(checkpoint, state, config);
      }
    }
  }
  write_checkpoint(checkpoint, state, config);
  write_result(folder + "/result.h5", state, config, problem);
  if (config.output.png) write_pictures(folder, state, problem);
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
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
  log_info() << "amplitude_error " << (error.empty() ? 0.0 : error.back()) << " after "
             << state.iteration << " iterations; result in " << folder << "/result.h5";
}

}  // namespace ptyle::driver
