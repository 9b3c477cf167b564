// The program's errors, each with the exit code that scripts rely on.
#pragma once

#include <stdexcept>
#include <string>

namespace ptyle::driver {

// What a message quotes may hold line breaks and other control characters: a message is one line.
inline std::string in_one_line(std::string message) {
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return message;
}

// Base of every error that the program reports in one sentence; main turns it into an exit code.
class Error : public std::runtime_error {
 public:
  Error(const std::string& message, int exit_code)
      : std::runtime_error(in_one_line(message)), exit_code_(exit_code) {}
  int exit_code() const noexcept { return exit_code_; }

 private:
  int exit_code_;
};

// Something failed while running: the disk is full, the loss is not finite.
class RunError : public Error {
 public:
  explicit RunError(const std::string& message) : Error(message, 1) {}
};

// The reconstruction grew worse without end. Of all ranks alike: one has the message, the others
// say nothing.
class Diverged : public RunError {
 public:
  explicit Diverged(const std::string& message) : RunError(message) {}
};

// The system refused to write a file: the rest can still be saved.
class WriteError : public RunError {
 public:
  using RunError::RunError;
};

// The command line or the config is wrong, a path in it included.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(message, 2) {}
};

// The data is wrong: a shape, a type, a value that is not a number.
class DataError : public Error {
 public:
  explicit DataError(const std::string& message) : Error(message, 3) {}
};

// Another rank failed: restart from the checkpoint.
class PeerError : public Error {
 public:
  explicit PeerError(const std::string& message) : Error(message, 75) {}
};

// Stopped by the user; the state has been saved.
class Interrupted : public Error {
 public:
  explicit Interrupted(const std::string& message) : Error(message, 130) {}
};

}  // namespace ptyle::driver
