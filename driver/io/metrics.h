// metrics.jsonl: one line of JSON an iteration, readable while the program runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ptyle::driver {

struct IterationMetrics {
  std::int64_t iteration = 0;    // from 1
  double loss = 0.0;             // sum over positions
  double amplitude_error = 0.0;  // mean over unmasked pixels of (sqrt(I + b) - sqrt(n))^2
  double seconds = 0.0;          // wall time of this iteration
  double positions_per_second = 0.0;
  // Largest over ranks: everything but the next two; packing messages and adding them; waiting for
  // other ranks, which could not be hidden.
  double compute_seconds = 0.0, pack_seconds = 0.0, wait_seconds = 0.0;
  std::int64_t bytes_sent = 0, messages_sent = 0;  // sum over ranks
  // With priors: largest over ranks; the amplitude error of one batch before and after
  // "plug-and-play" replaced the object for the last time, and what was left then of the loss that
  // the object (its phase, where priors work on phases alone) spares, 1: all; and of "red" and
  // "gradient", where they joined for the last time, how much they change the data's descent, to
  // first order: Re <data's gradient, theirs> / |data's gradient|^2. -1: they undo all of it, the
  // two are balanced.
  std::optional<double> prior_seconds, prior_error_before, prior_error_after, prior_left;
  std::optional<double> prior_descent;
  // Of descent: its common step, and how often steps were taken back since the start.
  std::optional<double> step, taken_back;
  // After the iteration's last update, of the positions in no batch (data.hold_out).
  std::optional<double> held_out_error;
  // Largest over ranks: of the process since its start, and of all tensors during the iterations.
  std::int64_t peak_bytes = 0, tensor_bytes = 0;
};

class MetricsWriter {
 public:
  // Starts the file anew, or, with keep_iterations > 0, keeps the lines of iterations up to that
  // number (a restart from a checkpoint) and appends behind them.
  explicit MetricsWriter(const std::string& path, std::int64_t keep_iterations = 0);
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;
  ~MetricsWriter();
  // One line, handed to the system before it returns; WriteError. A line that was refused is tried
  // again with the next one and in close().
  void write(const IterationMetrics& metrics);
  // Onto the disk; WriteError.
  void close();

 private:
  void write_pending();
  std::string path_;
  std::string pending_;  // lines that are not in the file yet
  int descriptor_ = -1;
};

}  // namespace ptyle::driver
