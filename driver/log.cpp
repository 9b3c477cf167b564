#include "driver/log.h"

#include <chrono>
#include <cstdio>
#include <mutex>
#include <unistd.h>

#include "driver/io/output.h"

namespace ptyle::driver {
namespace {

using Clock = std::chrono::steady_clock;
const Clock::time_point kStart = Clock::now();

// Guards the prefix and the state of the terminal's line.
std::mutex& mutex() {
  static std::mutex instance;
  return instance;
}
std::string& prefix() {
  static std::string instance;
  return instance;
}
bool line_occupied = false;

// Nobody may listen: a log must not stop the program.
void write_line(std::string_view bytes) {
  [[maybe_unused]] const int ignored = write_all(STDERR_FILENO, bytes);
}

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kWarning:
      return "warning: ";
    case LogLevel::kError:
      return "error: ";
    default:
      return "";
  }
}

}  // namespace

void set_log_prefix(std::string_view text) {
  const std::lock_guard lock(mutex());
  prefix() = text;
}

double seconds_since_start() {
  return std::chrono::duration<double>(Clock::now() - kStart).count();
}

void log_line(LogLevel level, std::string_view message) {
  char time[32];
  std::snprintf(time, sizeof(time), "[%8.3f s", seconds_since_start());
  const std::lock_guard lock(mutex());
  std::string line;
  if (line_occupied) line = "\r\x1b[K";
  line_occupied = false;
  line += time;
  if (!prefix().empty()) line += " " + prefix();
  line += "] ";
  line += level_name(level);
  line += message;
  line += '\n';
  write_line(line);
}

void write_raw(std::string_view bytes, bool occupies_line) {
  const std::lock_guard lock(mutex());
  line_occupied = occupies_line;
  write_line(bytes);
}

LogMessage::~LogMessage() { log_line(level_, stream_.str()); }

}  // namespace ptyle::driver
