#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "driver/check/parts.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

using words::counted;
using words::number;

// "3 frames (4, 5, 9)", by their numbers in the file.
std::string frames_in_words(const Problem& problem, std::vector<std::size_t> places) {
  constexpr std::size_t kNamed = 10;
  std::sort(places.begin(), places.end());
  std::string text = counted(static_cast<std::int64_t>(places.size()), "frame") + " (";
  for (std::size_t k = 0; k < std::min(kNamed, places.size()); ++k) {
    text += (k > 0 ? ", " : "") + std::to_string(problem.frames[places[k]]);
  }
  if (places.size() > kNamed) text += " and " + std::to_string(places.size() - kNamed) + " more";
  return text + ")";
}

// A detector that stood still repeats a frame bit for bit, which noise never does.
void doubt_equal_frames(const Problem& problem, std::vector<Doubt>& found) {
  constexpr double kEnough = 30.0;  // counts: patterns with a few may agree by chance
  const double* checksums = problem.pattern_checksums.const_data_ptr<double>();
  const double* counts = problem.counts_per_pattern.const_data_ptr<double>();
  std::map<double, std::size_t> first;
  std::vector<std::size_t> again;
  for (std::size_t k = 0; k < problem.frames.size(); ++k) {
    if (counts[k] < kEnough) continue;
    if (!first.emplace(checksums[k], k).second) again.push_back(k);
  }
  if (again.empty()) return;
  found.push_back({frames_in_words(problem, again) + (again.size() == 1 ? " holds" : " hold") +
                       " the very values of a frame before: did the detector stand still "
                       "(data.skip leaves frames out)?",
                   "frames that repeat others (data.skip)", Doubt::kFrames});
}

// Positions that were never written are equal. Where every place is visited several times they are
// meant.
void doubt_equal_positions(const Problem& problem, std::vector<Doubt>& found) {
  const double* p = problem.positions.const_data_ptr<double>();
  std::map<std::pair<double, double>, std::vector<std::size_t>> places;
  for (std::size_t k = 0; k < problem.frames.size(); ++k) {
    places[{p[2 * k], p[2 * k + 1]}].push_back(k);
  }
  std::vector<std::size_t> visits;
  for (const auto& [place, frames] : places) visits.push_back(frames.size());
  std::nth_element(visits.begin(), visits.begin() + static_cast<std::ptrdiff_t>(visits.size() / 2),
                   visits.end());
  const std::size_t usual = visits[visits.size() / 2];
  for (const auto& [place, frames] : places) {
    const bool all = places.size() == 1 && frames.size() > 1;
    if (!all && (frames.size() < 3 || frames.size() <= 2 * usual)) continue;
    found.push_back(
        {(all ? "all positions are equal: "
              : frames_in_words(problem, frames) + " have one and the same position: ") +
             "were they never written?",
         "positions that were not written (data.positions)", Doubt::kFrames});
    return;
  }
}

}  // namespace

void doubt_repeats(const Problem& problem, std::vector<Doubt>& found) {
  if (problem.frames.empty()) return;
  doubt_equal_frames(problem, found);
  doubt_equal_positions(problem, found);
}

}  // namespace ptyle::driver
