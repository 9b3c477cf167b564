#include "driver/run/run.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <ATen/DeviceGuard.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Logging.h>

#include <ptyle/ops.h>

#include "driver/check/doubts.h"
#include "driver/device.h"
#include "driver/engine/checkpoint.h"
#include "driver/engine/engine.h"
#include "driver/engine/footprint.h"
#include "driver/engine/result.h"
#include "driver/engine/vectors.h"
#include "driver/errors.h"
#include "driver/io/metrics.h"
#include "driver/io/output.h"
#include "driver/io/problem.h"
#include "driver/log.h"
#include "driver/memory.h"
#include "driver/progress.h"
#include "driver/run/folder.h"
#include "driver/run/judgement.h"
#include "driver/threads.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/launch.h"
#include "driver/tiles/meeting.h"
#include "driver/tiles/ranks.h"
#include "driver/trace.h"
#include "driver/words.h"

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

// Takes SIGINT, SIGTERM and SIGHUP (a closed terminal) for the time of a run. A signal that was
// ignored from the start (nohup, a job in a script's background) stays ignored.
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
  static constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, 3> before_{};
};

// Of a likelihood that weighs pixels otherwise amplitudes may rise while the run does what it was
// asked to.
bool own_loss_falls(const Config& config, const History& history) {
  const std::vector<double>& loss = history.loss;
  return likelihood_named(config.reconstruct.likelihood) != Likelihood::kAmplitude &&
         !loss.empty() && loss.back() <= kMuchMore * *std::min_element(loss.begin(), loss.end());
}

// Of all ranks.
IterationMetrics metrics_of(const Engine& engine, const State& state, const Ranks& ranks,
                            const at::Device& device, bool with_priors) {
  IterationMetrics row;
  row.iteration = state.iteration;
  row.loss = state.history.loss.back();
  row.amplitude_error = state.history.amplitude_error.back();
  row.seconds = state.history.seconds.back();
  row.positions_per_second =
      row.seconds > 0 ? static_cast<double>(engine.positions_in_batches()) / row.seconds : 0.0;
  const IterationWork& work = engine.work();
  const at::Tensor most = at::zeros({6}, at::kDouble), sum = at::zeros({2}, at::kLong);
  auto* m = most.data_ptr<double>();
  m[0] = work.compute_seconds;
  m[1] = work.pack_seconds;
  m[2] = work.wait_seconds;
  m[3] = static_cast<double>(peak_resident_bytes());
  m[4] = static_cast<double>(most_bytes(device));
  m[5] = work.prior_seconds;
  sum.data_ptr<std::int64_t>()[0] = work.bytes;
  sum.data_ptr<std::int64_t>()[1] = work.messages;
  ranks.maximum(most);
  ranks.sum(sum);
  row.compute_seconds = m[0];
  row.pack_seconds = m[1];
  row.wait_seconds = m[2];
  row.peak_bytes = static_cast<std::int64_t>(m[3]);
  row.tensor_bytes = static_cast<std::int64_t>(m[4]);
  if (with_priors) row.prior_seconds = m[5];
  if (const auto step = state.numbers.find("step"); step != state.numbers.end()) {
    row.step = step->second;
    row.taken_back = state.number("taken_back");
  }
  row.held_out_error = work.held_out_error;
  row.prior_error_before = work.error_before_priors;
  row.prior_error_after = work.error_after_priors;
  row.prior_left = work.left_by_priors;
  row.prior_descent = work.prior_descent;
  row.bytes_sent = sum.data_ptr<std::int64_t>()[0];
  row.messages_sent = sum.data_ptr<std::int64_t>()[1];
  return row;
}

// A prior that works against the data: once where it raises a batch's error, and once where the
// error has grown beyond what updates without a prior do now and then.
void warn_of_growth(const Config& config, const State& state, const IterationMetrics& row) {
  static bool warned_of_jump = false, warned_of_growth = false;
  if (config.priors.empty()) return;
  constexpr double kMuch = 1.05;
  std::ostringstream text;
  if (!warned_of_jump && row.prior_error_before && row.prior_error_after &&
      *row.prior_error_after > kMuch * *row.prior_error_before) {
    warned_of_jump = true;
    text << "priors work against the data in iteration " << row.iteration
         << ": they took the amplitude error of a batch from " << *row.prior_error_before << " to "
         << *row.prior_error_after;
  }
  const std::vector<double>& error = state.history.amplitude_error;
  const double least = *std::min_element(error.begin(), error.end());
  if (!warned_of_growth && error.back() > kMuch * least) {
    warned_of_growth = true;
    if (!text.str().empty()) text << "; ";
    text << "the amplitude error was " << least << " and is " << error.back() << " after iteration "
         << row.iteration << ": do the priors work against the data?";
  }
  if (!text.str().empty()) log_warning() << text.str() << " (prior.strength, noise, every_batches)";
}

// A prior that leaves little of what the object explains beyond what vacuum does: what it takes off
// is the specimen. Once, and not before the object has formed.
void warn_of_wiping_out(const Config& config, const IterationMetrics& row) {
  static bool warned = false;
  constexpr double kLittle = 0.2;
  constexpr std::int64_t kFormed = 5;  // iterations
  if (warned || !row.prior_left || *row.prior_left > kLittle ||
      row.iteration < std::min(kFormed, config.reconstruct.iterations)) {
    return;
  }
  warned = true;
  log_warning() << "priors wipe the object out: of what they work on and explains a batch "
                << 100 * std::max(0.0, *row.prior_left) << " % is left after them in iteration "
                << row.iteration << " (prior.strength, noise, every_batches)";
}

// A run that does not fit would drag the whole machine down before it is killed.
void refuse_too_much_memory(const Config& config, const Problem& problem, const Decomposition& cut,
                            const Launch& launch, const at::Device& device) {
  const std::string shortage = memory_shortage(config, problem, cut, launch.rank, device);
  if (!shortage.empty() && !problem.far_position.empty()) throw DataError(problem.far_position);
  if (!shortage.empty()) throw RunError("the run " + shortage);
}

// What must be the same on all ranks, line by line.
std::string agreement(const Config& config, const Problem& problem, const Decomposition& cut) {
  std::ostringstream out;
  for (const auto& [key, value] : lines_of_toml(to_toml(config))) {
    out << key << " =" << value << "\n";
  }
  out << problem.positions.size(0) << " positions of checksum " << checksum(problem.positions)
      << "\nunmeasured pixels of checksum "
      << (problem.unmeasured ? checksum(problem.unmeasured->to(at::kByte)) : 0)
      << "\nprobe of checksum " << checksum(problem.probe) << "\nwindow " << problem.window[0]
      << " x " << problem.window[1] << ", object " << problem.object_shape[0] << " x "
      << problem.object_shape[1] << " x " << problem.object_shape[2] << "\ngrid " << cut.grid.rows()
      << " x " << cut.grid.columns() << ", halo " << cut.grid.halo()[0] << " x "
      << cut.grid.halo()[1] << checksums_of_priors(config) << "\n";
  return out.str();
}

// Each rank has looked at the patterns of its own tiles: what they mean together, and which frames
// take no part after all.
void share_statistics(const Config& config, Problem& problem, Decomposition& cut,
                      const Ranks& ranks) {
  const std::vector<std::int64_t> mine = cut.tiles_of_rank(ranks.rank());
  const std::set<std::int64_t> tiles(mine.begin(), mine.end());
  // A pattern that several ranks hold is counted by the one whose tile it belongs to.
  const auto counts_here = [&](std::int64_t n) {
    return tiles.count(cut.tile_of[static_cast<std::size_t>(n)]) > 0;
  };
  for (const std::int64_t n : problem.held) {
    if (counts_here(n)) continue;
    problem.statistics.select(0, n).zero_();
    problem.evidence.select(0, n).zero_();
  }
  ranks.gather(problem.statistics);
  ranks.gather(problem.evidence);
  const std::vector<bool> stays = judge_frames(config, problem);
  for (std::size_t k = 0; k < problem.held.size(); ++k) {
    const std::int64_t n = problem.held[k];
    const auto place = static_cast<std::size_t>(n);
    const bool counts = counts_here(n) && stays[place];
    if (counts && !problem.suspected[place]) continue;
    uncount(problem, static_cast<std::int64_t>(k), counts);
  }
  ranks.sum(problem.good_patterns);
  ranks.sum(problem.summed_patterns);
  ranks.sum(problem.pattern_sum);
  keep_positions(config, problem, stays);
  std::vector<std::int64_t> tile_of;
  for (std::size_t n = 0; n < stays.size(); ++n) {
    if (stays[n]) tile_of.push_back(cut.tile_of[n]);
  }
  cut.tile_of = std::move(tile_of);
}

// What was left out and what was found, once.
void tell_what_was_found(const Problem& problem) {
  for (const std::string& text : problem.left_out) log_info() << "left out: " << text;
  for (const std::string& text : problem.notes) log_info() << text;
  if (problem.masked_pixels > 0) log_info() << "masked: " << mask_words(problem);
}

// Every so many iterations; before the first of these after 1, 2, 4, ..., so that a run which goes
// wrong early has something to fall back on.
bool checkpoint_is_due(const Config& config, std::int64_t iteration) {
  const std::int64_t every = config.output.checkpoint_every;
  if (every <= 0) return false;
  return iteration % every == 0 || (iteration < every && (iteration & (iteration - 1)) == 0);
}

// After a divergence: the last checkpoint becomes the result, on all ranks. In words, for the end
// of a sentence.
std::string keep_last_good(const Config& config, const std::string& data, const Problem& problem,
                           const Decomposition& cut, const Ranks& ranks, Engine& engine,
                           Remarks& remarks) {
  const std::string& folder = config.output.folder;
  const std::string checkpoint = folder + "/checkpoint.h5";
  ranks.barrier();
  std::error_code error;
  if (!fs::exists(checkpoint, error)) return "; nothing before that was worth keeping";
  State good;
  {
    const OneThread one_thread;
    good = read_checkpoint(checkpoint, engine.start(), engine.unknowns(), config, data, cut, ranks);
  }
  remarks.fit = engine.residuals(good);
  const OneThread one_thread;
  write_result(folder + "/result.h5", good, engine.unknowns(), config, problem, ranks, remarks);
  if (ranks.first() && config.output.png) write_pictures(folder, good, problem);
  return "; " + folder + " keeps the result of iteration " + std::to_string(good.iteration);
}

// What a complete run says last.
void judge(const Config& config, const Problem& problem, const State& state,
           const Remarks& remarks) {
  const std::vector<double>& error = state.history.amplitude_error;
  if (error.size() > 1 && !(error.back() < error.front())) {
    log_warning() << "the amplitude_error did not fall (" << error.front() << " in the first "
                  << "iteration, " << error.back() << " in the last): check the geometry with "
                  << "`ptyle check`, or shorten the steps";
  }
  const Residuals& fit = *remarks.fit;
  const bool far = fit.amplitude_error > kFarAboveNoise * fit.expected_amplitude_error;
  if (far && !error.empty()) {
    std::string causes;
    int place = 0;
    for (const std::string& cause :
         likely_causes(config, problem, state.history, fit, remarks.doubts)) {
      ++place;
      causes += std::string(place > 1 ? ";" : "") + " (" + std::to_string(place) + ") " + cause;
    }
    log_warning() << "the fit is " << fit.amplitude_error / fit.expected_amplitude_error
                  << " times as far from the data as counting noise would be; likely causes:"
                  << causes;
  }
  constexpr double kBelowNoise = 0.5;
  if (!error.empty() && fit.amplitude_error < kBelowNoise * fit.expected_amplitude_error) {
    log_warning() << "the fit is closer to the data than counting noise lets it be: the values are "
                     "no counts (detector.gain; a root or a logarithm of them, or simulated "
                     "without noise), or they are fewer than the unknowns (more overlap)";
  }
  const std::string& folder = config.output.folder;
  if (error.empty()) {
    log_info() << "no iterations were asked for; the start is in " << folder << "/result.h5, with "
               << words_of_fit(config, fit);
  } else {
    log_info() << words_of_fit(config, fit) << " after "
               << words::counted(state.iteration, "iteration") << "; result in " << folder
               << "/result.h5";
  }
}

// What cannot be written ends the run, but not before the rest is saved as far as it can be.
class Saving {
 public:
  // Returns whether `write`, which says so itself where it failed, has done it.
  bool attempt(const std::function<void()>& write) {
    try {
      write();
      return true;
    } catch (const WriteError& error) {
      if (first_.empty()) first_ = error.what();
      return false;
    }
  }
  bool failed() const { return !first_.empty(); }
  const std::string& first() const { return first_; }

 private:
  std::string first_;
};

// What is in the folder after a failure to write.
std::string kept(const std::string& folder, std::int64_t iteration, bool checkpoint, bool result) {
  const std::string of = " of iteration " + std::to_string(iteration);
  if (checkpoint && result) {
    return "checkpoint.h5 and result.h5" + of + " are saved, --resume goes on";
  }
  if (checkpoint) return "checkpoint.h5" + of + " is saved, --resume goes on";
  std::error_code error;
  const std::string before = fs::exists(fs::path(folder) / "checkpoint.h5", error)
                                 ? "the checkpoint before it stays, --resume goes on from there"
                                 : "there is no checkpoint";
  return result ? "result.h5" + of + " is saved; " + before : before;
}

// Everything after the ranks have met, on each of them.
void reconstruct(Config config, const RunOptions& options, Problem& problem, Decomposition& cut,
                 const Ranks& ranks, const at::Device& device, bool auto_batches) {
  const c10::DeviceGuard here(device);
  if (!device.is_cpu()) {
    at::globalContext().setDeterministicAlgorithms(config.reconstruct.deterministic,
                                                   /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);  // nobody reads it
  }
  const std::string& folder = config.output.folder;
  const std::string checkpoint = folder + "/checkpoint.h5";
  {
    const OneThread one_thread;
    share_statistics(config, problem, cut, ranks);
    summarise_patterns(config, problem);
    // of the frames that take part after all
    if (auto_batches) config.reconstruct.batches.reset();
    settle_updates(config, problem);
  }
  if (ranks.first()) tell_what_was_found(problem);
  Engine engine(config, problem, cut, ranks, device);
  const std::string data = engine.fingerprint();
  Remarks remarks;
  if (ranks.first()) {
    const OneThread one_thread;
    remarks.doubts = doubts(config, problem, cut);
    for (const std::string& text : too_much_noise(config, engine.counting_noise())) {
      remarks.doubts.push_back({text, ""});
    }
    for (const Doubt& doubt : remarks.doubts) log_warning() << "doubtful: " << doubt.text;
  }
  State state;
  {
    const OneThread one_thread;
    state = engine.start();
  }
  if (options.resume && fs::exists(checkpoint)) {
    state =
        read_checkpoint(checkpoint, std::move(state), engine.unknowns(), config, data, cut, ranks);
    if (ranks.first()) {
      log_info() << "resuming " << checkpoint << " after iteration " << state.iteration
                 << (state.batch > 0 ? " and " + words::counted(state.batch, "batch") : "");
      for (std::size_t k = state.changes.size() - state.changed_now; k < state.changes.size();
           ++k) {
        const std::string& change = state.changes[k];
        log_info() << "updates begin anew, unknowns stay: " << change.substr(change.find(": ") + 2);
      }
      if (state.iteration >= config.reconstruct.iterations) {
        log_warning() << "reconstruct.iterations = " << config.reconstruct.iterations
                      << " are done already: nothing is added";
      }
    }
  } else {
    if (options.resume && ranks.first()) {
      log_info() << "no checkpoint in " << folder << " yet: starting anew";
    }
  }
  // Everything about config and data has been checked: only now is something written.
  ranks.barrier();
  std::optional<MetricsWriter> metrics;
  std::optional<FolderLock> lock;
  if (ranks.first()) {
    create_folder(folder);
    lock.emplace(folder);
    remove_leftovers(folder);
    if (options.overwrite) set_aside(folder);
    replace_file(folder + "/config.toml", to_toml(config, folder));
    metrics.emplace(folder + "/metrics.jsonl", state.iteration);
    log_info() << words::counted(engine.positions(), "position") << ", window " << problem.window[0]
               << " x " << problem.window[1] << ", object " << problem.object_shape[0] << " x "
               << problem.object_shape[1] << " x " << problem.object_shape[2] << ", "
               << cut.grid.rows() << " x " << cut.grid.columns()
               << (cut.grid.tiles() == 1 ? " tile on " : " tiles on ")
               << words::counted(ranks.size(), "rank") << ", on "
               << words_for(device, problem.window) << ", into " << folder;
  }

  restart_most_bytes(device);
  std::optional<Trace> trace;
  if (!options.trace.empty()) {
    trace.emplace(ranks);
    engine.record(&*trace);
  }
  Saving saving;
  const auto stop = [&saving] { return stop_asked.load() || saving.failed(); };
  const std::int64_t last = config.reconstruct.iterations;
  const double highest = engine.highest_error(state);
  try {
    std::optional<Progress> progress;
    if (ranks.first()) progress.emplace(state.iteration, last, engine.positions_in_batches());
    const auto batch_done = [&](std::int64_t positions) {
      if (progress) progress->positions_done(positions);
    };
    bool told_of_growth = false;
    double taken_back = state.number("taken_back");
    while (state.iteration < last && !engine.stopped()) {
      if (!engine.iterate(state, stop, batch_done)) break;
      const IterationMetrics row = metrics_of(engine, state, ranks, device, !config.priors.empty());
      if (ranks.first()) {
        warn_of_growth(config, state, row);
        warn_of_wiping_out(config, row);
      }
      if (ranks.first()) {
        saving.attempt([&] { metrics->write(row); });
        progress->iteration_done(row.iteration, row.amplitude_error, row.positions_per_second);
      }
      // an error that was answered by taking steps back says nothing of where the run is now
      const bool went_back = row.taken_back.value_or(0.0) > taken_back;
      taken_back = row.taken_back.value_or(0.0);
      const Course course = went_back || own_loss_falls(config, state.history)
                                ? Course::kFine
                                : course_of(state.history, problem, highest);
      if (course == Course::kDiverged && engine.retreat(state)) continue;
      if (course == Course::kDiverged) {
        throw Diverged(words_of_divergence(config, problem, state.history, highest, last));
      }
      if (course == Course::kRising && config.priors.empty() && ranks.first() &&
          !std::exchange(told_of_growth, true)) {
        log_warning() << "the amplitude_error is " << row.amplitude_error << " in iteration "
                      << row.iteration << ", more than twice its least: no checkpoint is written "
                      << "while it is";
      }
      if (course == Course::kFine && checkpoint_is_due(config, state.iteration) &&
          state.iteration < last) {
        const bool saved = saving.attempt([&] {
          write_checkpoint(checkpoint, state, engine.unknowns(), config, data, cut, ranks);
        });
        if (saved && ranks.first()) remove_set_aside(folder);
      }
    }
    // What the last updates made counts, not the errors on the way there.
    if (state.iteration >= last) {
      remarks.fit = engine.settle(state);
      History whole = state.history;
      whole.amplitude_error.push_back(remarks.fit->amplitude_error);
      if (state.iteration > 0 && !own_loss_falls(config, state.history) &&
          (course_of(whole, problem, highest) == Course::kDiverged ||
           (config.priors.empty() && ended_diverged(whole, problem)))) {
        throw Diverged(words_of_divergence(config, problem, whole, highest, state.iteration));
      }
    }
  } catch (const Diverged& error) {
    const std::string kept = keep_last_good(config, data, problem, cut, ranks, engine, remarks);
    throw Diverged(ranks.first() ? error.what() + kept : "");
  }
  if (ranks.first()) saving.attempt([&] { metrics->close(); });
  if (trace) saving.attempt([&] { trace->write(options.trace); });
  const bool checkpoint_saved = saving.attempt(
      [&] { write_checkpoint(checkpoint, state, engine.unknowns(), config, data, cut, ranks); });
  const bool complete = state.iteration >= last;
  {
    const OneThread one_thread;
    const bool result_saved = saving.attempt([&] {
      write_result(folder + "/result.h5", state, engine.unknowns(), config, problem, ranks,
                   remarks);
    });
    if (ranks.first() && (checkpoint_saved || result_saved)) remove_set_aside(folder);
    if (ranks.first() && result_saved && config.output.png) {
      saving.attempt([&] { write_pictures(folder, state, problem); });
    }
    if (saving.failed()) {
      throw WriteError(saving.first() + "; " +
                       kept(folder, state.iteration, checkpoint_saved, result_saved));
    }
  }
  ranks.barrier();  // where rank 0 could not write, the others hear of it here
  if (!complete) {
    throw Interrupted(!ranks.first()
                          ? ""
                          : "interrupted in iteration " + std::to_string(state.iteration + 1) +
                                " of " + std::to_string(last) + ": everything is saved in " +
                                folder + ", --resume goes on");
  }
  if (ranks.first()) judge(config, problem, state, remarks);
}

// What failed before counts; what cannot be settled now is by the next start.
void settle_after_failure(const std::string& folder) {
  try {
    settle_set_aside(folder);
  } catch (const Error&) {
  }
}

// Bits are those of an instruction set: all ranks take the lowest that any of them has.
void agree_on_kernels(const Problem& problem, const Ranks& ranks) {
  static constexpr std::array<const char*, 3> kKernels{"fused base", "fused v3", "fused v4"};
  const std::string mine = cpu_kernels(problem.window[0], problem.window[1]);
  std::int64_t level = 0;
  while (kKernels[static_cast<std::size_t>(level)] != mine) ++level;
  const at::Tensor highest = at::zeros({2}, at::kLong);  // of level and of -level
  highest.data_ptr<std::int64_t>()[0] = level;
  highest.data_ptr<std::int64_t>()[1] = -level;
  ranks.maximum(highest);
  const std::int64_t lowest = -highest.const_data_ptr<std::int64_t>()[1];
  if (highest.const_data_ptr<std::int64_t>()[0] == lowest) return;
  const std::string common = kKernels[static_cast<std::size_t>(lowest)];
  setenv("PTYLE_ISA", common.substr(common.find(' ') + 1).c_str(), 1);
  if (ranks.first()) log_info() << "all ranks take the kernels of the slowest: " << common;
}

}  // namespace

void run(Config config, const RunOptions& options) {
  count_tensor_bytes();
  const Launch launch = find_launch();
  if (launch.size > 1) set_log_prefix("rank " + std::to_string(launch.rank));
  const Signals signals;
  Problem problem;
  Decomposition cut;
  at::Device device = at::kCPU;
  bool auto_batches = false;
  try {
    device = choose_device(config);
    const std::string& folder = config.output.folder;
    require_writable_folder(folder);
    if (launch.rank == 0) settle_set_aside(folder);
    require_folder_for(options, folder);
    if (launch.rank == 0 && !options.trace.empty()) {
      require_replaceable("--trace", options.trace);
    }
    const std::string checkpoint = folder + "/checkpoint.h5";
    if (!config.tiles.grid && options.resume && fs::exists(checkpoint)) {
      config.tiles.grid = checkpoint_grid(checkpoint);  // "auto" was settled then
    }
    const OneThread one_thread;
    const auto cut_up = [&](const Problem& some) {
      return decompose(some.positions, some.window, {some.object_shape[1], some.object_shape[2]},
                       launch.size, decomposition_options(config, some));
    };
    // On a GPU that ranks share, or do not all have, it is known later.
    const bool can_tell = launch.size == 1 || device.is_cpu();
    problem = load_geometry(config, [&](const Problem& outline) {
      if (can_tell) refuse_too_much_memory(config, outline, cut_up(outline), launch, device);
    });
    auto_batches = !config.reconstruct.batches;
    settle_updates(config, problem);
    cut = cut_up(problem);
    config.tiles.grid = IntegerPair{cut.grid.rows(), cut.grid.columns()};
    load_patterns(config, problem, cut.positions_of_rank(launch.rank, problem.positions));
    if (launch.size == 1) refuse_too_much_memory(config, problem, cut, launch, device);
  } catch (const std::exception& error) {
    report_before_meeting(launch, error.what());
    throw;
  }
  if (launch.size == 1) {
    try {
      reconstruct(config, options, problem, cut, Ranks(), device, auto_batches);
    } catch (...) {
      if (options.overwrite) settle_after_failure(config.output.folder);
      throw;
    }
    return;
  }
  log_info() << launch.words();
  std::signal(SIGPIPE, SIG_IGN);  // a peer that is gone is an error of the exchange
  FLAGS_caffe2_log_level = 3;  // torch's traces would hide the one sentence that says what failed
  // What NCCL itself does about ranks that are gone would end this process without a word: the
  // meeting's watch knows better.
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
  setenv("TORCH_NCCL_RETHROW_CUDA_ERRORS", "0", /*overwrite=*/0);
  Meeting meeting(launch, agreement(config, problem, cut),
                  std::chrono::seconds(config.tiles.timeout_s));
  try {
    const Ranks ranks(meeting.group());
    device = agree_on_device(config, device, ranks);
    refuse_too_much_memory(config, problem, cut, launch, device);
    if (device.is_cpu()) {
      agree_on_kernels(problem, ranks);
    } else {
      meeting.connect(device);
    }
    reconstruct(config, options, problem, cut, Ranks(meeting.group()), device, auto_batches);
    meeting.leave();
  } catch (const c10::DistError& error) {
    throw PeerError(meeting.find_failure(error.what_without_backtrace()));
  } catch (const Interrupted&) {
    meeting.leave();
    throw;
  } catch (const Diverged&) {  // on all ranks
    if (options.overwrite && launch.rank == 0) settle_after_failure(config.output.folder);
    meeting.leave();
    throw;
  } catch (const std::exception& error) {
    if (options.overwrite && launch.rank == 0) settle_after_failure(config.output.folder);
    meeting.report("rank " + std::to_string(launch.rank) + " failed: " + error.what());
    throw;
  }
}

}  // namespace ptyle::driver
