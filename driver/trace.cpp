#include "driver/trace.h"

#include <algorithm>
#include <cstdio>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "driver/io/output.h"

namespace ptyle::driver {
namespace {

constexpr std::size_t kMostEvents = 1'000'000;

}  // namespace

Trace::Trace(const Ranks& ranks) : ranks_(ranks) {
  ranks.barrier();
  begin_ = std::chrono::steady_clock::now();
}

double Trace::now_us() const {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin_)
      .count();
}

Trace::Box::Box(Trace* trace, const char* name) : trace_(trace), name_(name) {
  if (trace_ != nullptr) begin_us_ = trace_->now_us();
}

Trace::Box::~Box() {
  if (trace_ == nullptr || trace_->events_.size() >= kMostEvents) return;
  trace_->events_.push_back({name_, begin_us_, trace_->now_us() - begin_us_});
}

void Trace::write(const std::string& path) const {
  std::string own;
  char line[200];
  for (const Event& event : events_) {
    std::snprintf(
        line, sizeof(line),
        ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%lld,\"tid\":0,\"ts\":%.3f,\"dur\":%.3f}",
        event.name, static_cast<long long>(ranks_.rank()), event.begin_us, event.duration_us);
    own += line;
  }
  const at::Tensor sizes = at::zeros({ranks_.size()}, at::kLong);
  sizes.data_ptr<std::int64_t>()[ranks_.rank()] = static_cast<std::int64_t>(own.size());
  ranks_.gather(sizes);
  if (!ranks_.first()) {
    const at::Tensor bytes = at::empty({static_cast<std::int64_t>(own.size())}, at::kByte);
    std::copy(own.begin(), own.end(), static_cast<char*>(bytes.data_ptr()));
    if (!own.empty()) ranks_.send(bytes, 0, Ranks::kFileTag);
    return;
  }
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (std::int64_t rank = 0; rank < ranks_.size(); ++rank) {
    std::snprintf(
        line, sizeof(line),
        "%s{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%lld,\"args\":{\"name\":\"rank "
        "%lld\"}}",
        rank == 0 ? "" : ",\n", static_cast<long long>(rank), static_cast<long long>(rank));
    text += line;
  }
  text += own;
  for (std::int64_t rank = 1; rank < ranks_.size(); ++rank) {
    const at::Tensor bytes = at::empty({sizes.data_ptr<std::int64_t>()[rank]}, at::kByte);
    if (bytes.numel() == 0) continue;
    ranks_.receive(bytes, rank, Ranks::kFileTag);
    text.append(static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes());
  }
  replace_file(path, text + "\n]}\n");
}

}  // namespace ptyle::driver
