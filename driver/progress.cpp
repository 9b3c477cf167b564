#include "driver/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <unistd.h>

#include "driver/log.h"

namespace ptyle::driver {
namespace {

constexpr int kBarWidth = 24;
constexpr auto kRedraw = std::chrono::milliseconds(100);

// 12345 -> "12.3 k"
std::string format_rate(double rate) {
  char text[32];
  if (rate >= 1e6) {
    std::snprintf(text, sizeof(text), "%.1f M", rate / 1e6);
  } else if (rate >= 1e4) {
    std::snprintf(text, sizeof(text), "%.1f k", rate / 1e3);
  } else {
    std::snprintf(text, sizeof(text), "%.0f", rate);
  }
  return text;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0) return "?";
  const auto whole = static_cast<long long>(std::llround(seconds));
  char text[48];
  if (whole < 60) {
    std::snprintf(text, sizeof(text), "%lld s", whole);
  } else if (whole < 3600) {
    std::snprintf(text, sizeof(text), "%lld min %02lld s", whole / 60, whole % 60);
  } else {
    std::snprintf(text, sizeof(text), "%lld h %02lld min", whole / 3600, whole / 60 % 60);
  }
  return text;
}

Progress::Progress(std::int64_t first, std::int64_t last, std::int64_t positions)
    : Progress(first, last, positions, ::isatty(STDERR_FILENO) == 1) {}

Progress::Progress(std::int64_t first, std::int64_t last, std::int64_t positions, bool terminal)
    : first_(first),
      last_(last),
      positions_(std::max<std::int64_t>(positions, 1)),
      terminal_(terminal),
      start_(Clock::now()),
      iteration_(first) {}

Progress::~Progress() { finish(); }

void Progress::positions_done(std::int64_t positions) {
  positions_in_iteration_ = std::min(positions, positions_);
  draw(false);
}

void Progress::iteration_done(std::int64_t iteration, double amplitude_error,
                              double positions_per_second) {
  iteration_ = iteration;
  positions_in_iteration_ = 0;
  amplitude_error_ = amplitude_error;
  positions_per_second_ = positions_per_second;
  if (terminal_) {
    draw(iteration >= last_);
    return;
  }
  char text[160];
  std::snprintf(text, sizeof(text),
                "iteration %lld of %lld, amplitude error %.6g, %s positions/s, %s left",
                static_cast<long long>(iteration), static_cast<long long>(last_), amplitude_error,
                format_rate(positions_per_second).c_str(), format_duration(seconds_left()).c_str());
  log_line(LogLevel::kInfo, text);
}

double Progress::seconds_left() const {
  const double done =
      static_cast<double>(iteration_ - first_) +
      static_cast<double>(positions_in_iteration_) / static_cast<double>(positions_);
  if (done <= 0.0) return -1.0;
  const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
  return elapsed / done * std::max(0.0, static_cast<double>(last_ - first_) - done);
}

void Progress::draw(bool always) {
  if (!terminal_) return;
  const auto now = Clock::now();
  if (!always && open_ && now - drawn_ < kRedraw) return;
  drawn_ = now;
  const double total = static_cast<double>(std::max<std::int64_t>(last_, 1));
  const double done = std::min(
      1.0, (static_cast<double>(iteration_) +
            static_cast<double>(positions_in_iteration_) / static_cast<double>(positions_)) /
               total);
  const auto filled = static_cast<std::size_t>(done * kBarWidth);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  char error[48] = "";
  if (amplitude_error_ >= 0.0)
    std::snprintf(error, sizeof(error), "  error %.5g", amplitude_error_);
  char text[256];
  std::snprintf(text, sizeof(text), "\r\x1b[K[%s] %lld/%lld%s  %s positions/s  %s left",
                bar.c_str(), static_cast<long long>(iteration_), static_cast<long long>(last_),
                error, format_rate(positions_per_second_).c_str(),
                format_duration(seconds_left()).c_str());
  write_raw(text, true);
  open_ = true;
}

void Progress::finish() {
  if (open_) write_raw("\n", false);
  open_ = false;
}

}  // namespace ptyle::driver
