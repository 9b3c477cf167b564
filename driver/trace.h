// When what was done, for Perfetto (ui.perfetto.dev) and chrome://tracing: one JSON file for all
// ranks, a line of boxes a rank.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "driver/tiles/ranks.h"

namespace ptyle::driver {

class Trace {
 public:
  // Begins where the ranks meet, so that their times can be laid beside one another.
  explicit Trace(const Ranks& ranks);

  // From now until it is destroyed, as one box. Does nothing where `trace` is null.
  class Box {
   public:
    Box(Trace* trace, const char* name);
    Box(const Box&) = delete;
    Box& operator=(const Box&) = delete;
    ~Box();

   private:
    Trace* trace_;
    const char* name_;
    double begin_us_ = 0.0;
  };

  // Called by all ranks; rank 0 writes. The first million boxes of each rank.
  void write(const std::string& path) const;

 private:
  struct Event {
    const char* name;
    double begin_us, duration_us;
  };
  double now_us() const;

  const Ranks& ranks_;
  std::chrono::steady_clock::time_point begin_;
  std::vector<Event> events_;
};

}  // namespace ptyle::driver
