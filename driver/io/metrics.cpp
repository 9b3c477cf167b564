#include "driver/io/metrics.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <unistd.h>
#include <utility>

#include <nlohmann/json.hpp>

#include "driver/errors.h"
#include "driver/io/output.h"

namespace ptyle::driver {
namespace {

[[noreturn]] void fail(const std::string& path, int error) {
  throw WriteError(path + ": cannot be written: " + std::strerror(error));
}

// The lines of iterations 1 to `keep`, in their order; a torn last line is dropped.
std::string kept_lines(const std::string& path, std::int64_t keep) {
  std::ifstream in(path);
  std::string kept;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;
    const auto iteration = json.find("iteration");
    if (iteration == json.end() || !iteration->is_number_integer()) continue;
    if (iteration->get<std::int64_t>() <= keep) kept += line + "\n";
  }
  return kept;
}

// JSON has no infinity and no NaN: they become null.
nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

}  // namespace

MetricsWriter::MetricsWriter(const std::string& path, std::int64_t keep_iterations) : path_(path) {
  const std::string kept = keep_iterations > 0 ? kept_lines(path, keep_iterations) : std::string();
  // A crash between here and the next line must not cost the kept ones.
  if (!kept.empty()) replace_file(path, kept);
  const int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (kept.empty() ? O_TRUNC : 0);
  descriptor_ = ::open(path.c_str(), flags, 0644);
  if (descriptor_ < 0) fail(path, errno);
}

MetricsWriter::~MetricsWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MetricsWriter::write(const IterationMetrics& metrics) {
  nlohmann::ordered_json json;
  json["iteration"] = metrics.iteration;
  json["loss"] = number(metrics.loss);
  json["amplitude_error"] = number(metrics.amplitude_error);
  json["seconds"] = number(metrics.seconds);
  json["positions_per_second"] = number(metrics.positions_per_second);
  json["compute_seconds"] = number(metrics.compute_seconds);
  json["pack_seconds"] = number(metrics.pack_seconds);
  json["wait_seconds"] = number(metrics.wait_seconds);
  json["bytes_sent"] = metrics.bytes_sent;
  json["messages_sent"] = metrics.messages_sent;
  json["peak_bytes"] = metrics.peak_bytes;
  json["tensor_bytes"] = metrics.tensor_bytes;
  const auto optional = [&json](const char* key, const std::optional<double>& value) {
    if (value) json[key] = number(*value);
  };
  optional("held_out_error", metrics.held_out_error);
  optional("step", metrics.step);
  optional("taken_back", metrics.taken_back);
  optional("prior_seconds", metrics.prior_seconds);
  optional("prior_error_before", metrics.prior_error_before);
  optional("prior_error_after", metrics.prior_error_after);
  optional("prior_left", metrics.prior_left);
  optional("prior_descent", metrics.prior_descent);
  pending_ += json.dump() + "\n";
  write_pending();
}

void MetricsWriter::write_pending() {
  const off_t whole = ::lseek(descriptor_, 0, SEEK_END);
  if (const int error = write_all(descriptor_, pending_); error != 0) {
    // No torn line for those who read along; where it cannot be cut off, a restart skips it.
    [[maybe_unused]] const int ignored = whole < 0 ? 0 : ::ftruncate(descriptor_, whole);
    fail(path_, error);
  }
  pending_.clear();
}

void MetricsWriter::close() {
  if (descriptor_ < 0) return;
  write_pending();
  if (const int error = close_synced(std::exchange(descriptor_, -1)); error != 0) {
    fail(path_, error);
  }
}

}  // namespace ptyle::driver
