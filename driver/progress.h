// What a person sees while a reconstruction runs: a bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace ptyle::driver {

class Progress {
 public:
  // Iterations `first` (after a resume, else 0) to `last` are to be done, each over `positions`.
  Progress(std::int64_t first, std::int64_t last, std::int64_t positions);
  // `terminal` decides between bar and lines; the other constructor asks stderr.
  Progress(std::int64_t first, std::int64_t last, std::int64_t positions, bool terminal);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  // Inside an iteration: so many of its positions are done. Redraws at most ten times a second.
  void positions_done(std::int64_t positions);
  // An iteration (numbered from 1) is complete. On a terminal it redraws, elsewhere it logs a line.
  void iteration_done(std::int64_t iteration, double amplitude_error, double positions_per_second);
  // Leaves the line of the bar. Idempotent; the destructor calls it.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(bool always);
  double seconds_left() const;

  std::int64_t first_, last_, positions_;
  bool terminal_;
  Clock::time_point start_, drawn_;
  std::int64_t iteration_;
  std::int64_t positions_in_iteration_ = 0;
  double amplitude_error_ = -1.0;
  double positions_per_second_ = 0.0;
  bool open_ = false;
};

// "12 s", "3 min 05 s", "2 h 10 min".
std::string format_duration(double seconds);

}  // namespace ptyle::driver
