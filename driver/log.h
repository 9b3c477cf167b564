// The program's log: one line to stderr per message, with seconds since the start and a level.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

namespace ptyle::driver {

enum class LogLevel { kInfo, kWarning, kError };

// Prefix of every line, for instance "rank 3"; empty for one rank.
void set_log_prefix(std::string_view prefix);
// Seconds on a clock that never jumps, since the program started.
double seconds_since_start();
// Writes one line in one call to write(2), so that lines of several threads and ranks never mix.
void log_line(LogLevel level, std::string_view message);
// Writes bytes to stderr as they are (the progress bar), never in the middle of a line of the log.
// `occupies_line`: the cursor stays in a line that the next log line must clear first.
void write_raw(std::string_view bytes, bool occupies_line);

// Usage: LogMessage(LogLevel::kInfo) << "read " << n << " patterns";
class LogMessage {
 public:
  explicit LogMessage(LogLevel level) : level_(level) {}
  LogMessage(const LogMessage&) = delete;
  LogMessage& operator=(const LogMessage&) = delete;
  ~LogMessage();
  template <typename T>
  LogMessage& operator<<(const T& value) {
    stream_ << value;
    return *this;
  }

 private:
  LogLevel level_;
  std::ostringstream stream_;
};

inline LogMessage log_info() { return LogMessage(LogLevel::kInfo); }
inline LogMessage log_warning() { return LogMessage(LogLevel::kWarning); }
inline LogMessage log_error() { return LogMessage(LogLevel::kError); }

}  // namespace ptyle::driver
