#include "driver/io/patterns.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "driver/errors.h"
#include "driver/io/frames.h"
#include "driver/io/pixels.h"
#include "driver/io/prefetch.h"
#include "driver/io/reading.h"
#include "driver/words.h"

// Of the library that torch brings; a thread's own number.
extern "C" void omp_set_num_threads(int threads) __attribute__((weak));

namespace ptyle::driver {
namespace {

at::Tensor selected(const at::Tensor& patterns, const at::Tensor& indices) {
  // ATen cannot select rows of uint16; its bits can move as int16.
  if (patterns.scalar_type() == at::kUInt16) {
    return patterns.view(at::kShort).index_select(0, indices).view(at::kUInt16);
  }
  return patterns.index_select(0, indices);
}
// What reading patterns must know of a problem.
Problem for_reading(const Problem& problem) {
  Problem some;
  some.window = problem.window;
  some.frames = problem.frames;
  some.unmeasured = problem.unmeasured;
  some.block_shares = problem.block_shares;
  return some;
}

// Patterns, mask and statistics of some positions, ascending, alone.
Problem read_some(const Config& config, const Problem& problem, std::vector<std::int64_t> held) {
  Problem some = for_reading(problem);
  some.held = std::move(held);
  Located located = locate_in_data(config, "data.patterns", config.data.patterns);
  const Stack stack = open_stack(std::move(located), "data.patterns");
  read_patterns(config, stack, make_pixel_map(config, lay_out(config, stack.frame)),
                skips_bad_frames(config), some);
  return some;
}

// A mark that pixels of a few frames hold.
struct Mark {
  std::vector<std::int32_t> frames;  // by stored pixel, how many of the frames hold it there
  std::int32_t frames_with = 0;      // how many hold it anywhere
  bool in_this_frame = false;
};

// By value; all that is not finite is one.
template <typename T>
void count_marks(const T* stored, std::size_t pixels, double saturation,
                 std::map<std::string, Mark>& marks) {
  for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
    const T value = stored[pixel];
    const bool odd = is_not_finite(value);
    if (!odd && !is_large_marker(value)) continue;
    if (!odd && static_cast<double>(value) >= saturation) continue;  // masked for that
    Mark& mark = marks[odd ? "no number (NaN or infinity)"
                           : marker_words(static_cast<double>(value), std::is_same_v<T, float>)];
    mark.frames.resize(pixels, 0);
    ++mark.frames[pixel];
    mark.in_this_frame = true;
  }
  for (auto& [value, mark] : marks) {
    mark.frames_with += std::exchange(mark.in_this_frame, false) ? 1 : 0;
  }
}

void doubt_hot(const HotPixels& hot, Problem& problem) {
  const auto add = [&problem](const std::string& text, const std::string& which) {
    problem.found.push_back({text + " in every frame: hot (" + which + "; data.mask)?",
                             "hot pixels (data.mask; " + which + ")", Doubt::kPixels});
  };
  const auto lines = static_cast<std::int64_t>(hot.lines.size());
  if (!hot.lines.empty()) {
    std::string which;
    for (const auto& line : hot.lines) {
      which += (which.empty() ? "" : ", ") + line_words(problem, line);
      problem.hot.insert(problem.hot.end(), line.begin(), line.end());
    }
    add(lines == 1 ? "a row or column is half as bright again as those beside it"
                   : std::to_string(lines) +
                         " rows or columns are half as bright again as those beside them",
        which + " of the stored pattern");
  }
  if (!hot.single.empty()) {
    problem.hot.insert(problem.hot.end(), hot.single.begin(), hot.single.end());
    add(words::counted(static_cast<std::int64_t>(hot.single.size()), "pixel") +
            (hot.single.size() == 1 ? " is" : " are") + " 30 times brighter than all around",
        pixel_words(problem, hot.single));
  }
}

// Patterns that are read from the file again whenever they are needed, ahead of time.
class FilePatterns final : public PatternSource {
 public:
  FilePatterns(const Config& config, const Problem& problem)
      : config_(config),
        window_(for_reading(problem)),
        held_(problem.held),
        type_(problem.patterns.scalar_type()) {}
  at::ScalarType type() const override { return type_; }
  PatternBlock rows(const at::Tensor& indices) const override {
    return prefetch_.take(request(indices));
  }
  void expect(const std::vector<at::Tensor>& next) const override {
    std::vector<Request> requests;
    for (const at::Tensor& indices : next) requests.push_back(request(indices));
    prefetch_.expect(requests);
  }
  void forget() const override { prefetch_.forget(); }

 private:
  using Request = std::vector<std::int64_t>;

  static Request request(const at::Tensor& indices) {
    const auto* begin = indices.const_data_ptr<std::int64_t>();
    return {begin, begin + indices.numel()};
  }

  PatternBlock read(const Request& indices) const {
    std::vector<std::int64_t> order(indices.size());
    std::iota(order.begin(), order.end(), 0);
    const auto row = [&](std::int64_t k) { return indices[static_cast<std::size_t>(k)]; };
    std::sort(order.begin(), order.end(),
              [&](std::int64_t a, std::int64_t b) { return row(a) < row(b); });
    std::vector<std::int64_t> held;
    at::Tensor back = at::empty({static_cast<std::int64_t>(order.size())}, at::kLong);
    for (const std::int64_t k : order) {
      back.data_ptr<std::int64_t>()[k] = static_cast<std::int64_t>(held.size());
      held.push_back(held_[static_cast<std::size_t>(row(k))]);
    }
    const Problem some = read_some(config_, window_, std::move(held));
    PatternBlock block{selected(some.patterns, back), some.mask};
    if (block.mask && block.mask->dim() == 3) block.mask = block.mask->index_select(0, back);
    return block;
  }

  Config config_;
  Problem window_;  // what reading must know
  std::vector<std::int64_t> held_;
  at::ScalarType type_;
  static constexpr std::size_t kAhead = 3;  // blocks
  mutable Prefetch<Request, PatternBlock> prefetch_{
      [this](const Request& indices) { return read(indices); }, kAhead,
      [] {                      // the other threads are at work
        at::get_num_threads();  // torch sets the thread's number when it is first asked
        if (omp_set_num_threads != nullptr) omp_set_num_threads(1);
      }};
};

}  // namespace

void look_at_some(const Config& config, const Stack& stack, const PixelMap& map, Problem& problem) {
  constexpr std::int64_t kSome = 16, kFewest = 3;
  const auto n = static_cast<std::int64_t>(problem.frames.size());
  const std::int64_t some = std::min(n, kSome);
  if (some < kFewest) return;
  std::vector<std::int64_t> positions, frames;
  for (std::int64_t k = 0; k < some; ++k) {
    positions.push_back(k * (n - 1) / (some - 1));
    frames.push_back(problem.frames[static_cast<std::size_t>(positions.back())]);
  }
  const auto pixels = static_cast<std::size_t>(map.stored[0] * map.stored[1]);
  std::map<std::string, Mark> marks;
  NegativeMarks negative(pixels);
  std::size_t next = 0;
  // The largest value of a byte is masked wherever it occurs, and there is no other mark.
  const bool has_marks = stack.info.type != at::kByte;
  for (const Box& box : has_marks ? boxes_of(stack, frames) : std::vector<Box>{}) {
    const at::Tensor block = read_box(stack, box);
    with_type(stack.info.type, [&](auto tag) {
      const auto* stored = static_cast<const decltype(tag)*>(block.data_ptr());
      for_each_in(stack, box, frames, next, [&](std::int64_t in_box, std::int64_t) {
        const auto* frame = stored + static_cast<std::size_t>(in_box) * pixels;
        count_marks(frame, pixels,
                    config.detector.saturation.value_or(std::numeric_limits<double>::infinity()),
                    marks);
        negative.add(frame);
      });
    });
  }
  const auto take_for_unmeasured = [&](const std::string& value,
                                       const std::vector<std::uint8_t>& stored) {
    const std::int64_t count = std::count(stored.begin(), stored.end(), 1);
    if (2 * count > static_cast<std::int64_t>(pixels)) {
      problem.found.push_back({std::to_string(count) + " of " + std::to_string(pixels) +
                                   " pixels hold " + value +
                                   " in every frame that was looked at: too many to take them for "
                                   "unmeasured (data.mask, detector.dark)",
                               "unmeasured pixels that count (data.mask)", Doubt::kPixels});
      return;
    }
    std::vector<std::uint8_t> window(static_cast<std::size_t>(map.pixels()));
    map_mask(stored.data(), map, window.data());
    if (!problem.unmeasured) {
      problem.unmeasured = at::zeros({map.window[0], map.window[1]}, at::kBool);
    }
    auto* all = static_cast<std::uint8_t*>(problem.unmeasured->data_ptr());
    std::int64_t here = 0;
    for (std::size_t pixel = 0; pixel < window.size(); ++pixel) {
      if (map.source[pixel * static_cast<std::size_t>(map.per_pixel)] < 0) continue;  // padding
      all[pixel] |= window[pixel];
      here += window[pixel];
    }
    problem.notes.push_back(words::counted(here, "pixel") + (here == 1 ? " holds " : " hold ") +
                            value + " in all frames: masked as unmeasured");
  };
  // Some of the frames may be bad themselves: without any mark, or one of them with half of them.
  const auto in_most = [some](std::int64_t with) { return 4 * with >= 3 * some; };
  for (const auto& [value, mark] : marks) {
    if (!in_most(mark.frames_with)) continue;
    std::vector<std::uint8_t> stored(pixels);
    for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
      stored[pixel] = mark.frames[pixel] + 1 >= mark.frames_with ? 1 : 0;
    }
    if (std::find(stored.begin(), stored.end(), 1) != stored.end()) {
      take_for_unmeasured(value, stored);
    }
  }
  if (in_most(negative.frames())) {
    for (const NegativeMarks::Mark& mark : negative.found()) {
      take_for_unmeasured(words::exact(mark.value), mark.pixels);
    }
  }

  Problem sample = for_reading(problem);
  sample.held = positions;
  read_patterns(config, stack, map, /*tolerant=*/true, sample);
  doubt_hot(hot_pixels(sample.patterns, config.detector.geometry == "far"), problem);
  if (config.detector.geometry == "far") {
    if (const auto pedestal = pedestal_of(sample.patterns, sample.mask)) {
      problem.found.push_back(
          {"the darkest quarter of the pixels holds " + words::number(pedestal->mean) +
               " on average and varies by " + words::number(pedestal->deviation, 2) +
               ", where counts would by " + words::number(std::sqrt(pedestal->mean), 2) +
               ": is that a pedestal (detector.dark = " + words::number(pedestal->mean, 3) +
               " takes it off), or are values no counts (detector.gain)?",
           "a pedestal in the values (detector.dark)"});
    }
  }
  const std::vector<std::uint8_t> blocks = blocks_of(map.window);
  constexpr auto kAll = static_cast<std::size_t>(kBlocks * kBlocks);
  std::vector<std::vector<double>> shares(kAll);
  std::vector<double> totals;
  for (std::int64_t k = 0; k < some; ++k) {
    const at::Tensor pattern = sample.patterns.select(0, k).to(at::kDouble).contiguous();
    const double* counts = pattern.const_data_ptr<double>();
    const double total =
        sample.statistics[positions[static_cast<std::size_t>(k)]][0].item<double>();
    if (!(total > 0.0)) continue;
    std::array<double, kAll> sums{};
    for (std::size_t pixel = 0; pixel < blocks.size(); ++pixel)
      sums[blocks[pixel]] += counts[pixel];
    for (std::size_t block = 0; block < kAll; ++block) shares[block].push_back(sums[block] / total);
    totals.push_back(total);
  }
  if (static_cast<std::int64_t>(totals.size()) < kFewest) return;
  problem.block_shares = at::zeros({kBlocks * kBlocks}, at::kDouble);
  for (std::size_t block = 0; block < kAll; ++block) {
    // Where chance leaves a block empty now and then, an empty one says nothing.
    constexpr double kSure = 20.0;
    const double share = lower_median(shares[block]);
    if (share * lower_median(totals) >= kSure) {
      problem.block_shares[static_cast<std::int64_t>(block)] = share;
    }
  }
}

PatternBlock MemoryPatterns::rows(const at::Tensor& indices) const {
  return {selected(patterns_, indices), std::nullopt};
}
void load_patterns(const Config& config, Problem& problem, std::vector<std::int64_t> held) {
  const std::int64_t pixels = problem.window[0] * problem.window[1];
  if (!streams_patterns(config, static_cast<std::int64_t>(held.size()), pixels)) {
    Problem all = read_some(config, problem, std::move(held));
    problem.held = std::move(all.held);
    problem.patterns = all.patterns;
    problem.mask = all.mask;
    problem.statistics = all.statistics;
    problem.evidence = all.evidence;
    problem.good_patterns = all.good_patterns;
    problem.pattern_sum = all.pattern_sum;
    problem.summed_patterns = problem.good_patterns.clone();
    problem.source = std::make_shared<MemoryPatterns>(problem.patterns);
    return;
  }
  problem.held = std::move(held);
  constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
  const std::size_t chunk =
      static_cast<std::size_t>(std::max<std::int64_t>(1, kChunkBytes / (4 * pixels)));
  for (std::size_t first = 0; first < problem.held.size() || first == 0; first += chunk) {
    const std::size_t end = std::min(problem.held.size(), first + chunk);
    const Problem some = read_some(config, problem,
                                   {problem.held.begin() + static_cast<std::ptrdiff_t>(first),
                                    problem.held.begin() + static_cast<std::ptrdiff_t>(end)});
    if (first == 0) {
      problem.statistics = some.statistics;
      problem.evidence = some.evidence;
      problem.good_patterns = some.good_patterns;
      problem.pattern_sum = some.pattern_sum;
      problem.patterns = some.patterns.narrow(0, 0, 0).clone();
    } else {
      problem.statistics.add_(some.statistics);  // each row comes from one chunk
      problem.evidence.add_(some.evidence);
      problem.good_patterns.add_(some.good_patterns);
      problem.pattern_sum.add_(some.pattern_sum);
    }
  }
  problem.summed_patterns = problem.good_patterns.clone();
  problem.source = std::make_shared<FilePatterns>(config, problem);
}

PatternBlock patterns_of(const Config& config, const Problem& problem,
                         std::vector<std::int64_t> positions) {
  const Problem some = read_some(config, problem, std::move(positions));
  return {some.patterns, some.mask};
}

void uncount(Problem& problem, std::int64_t held, bool stays) {
  const PatternBlock one = problem.source->rows(at::full({1}, held, at::kLong));
  problem.pattern_sum.sub_(one.patterns.select(0, 0).to(at::kDouble));
  std::optional<at::Tensor> mask = problem.mask ? problem.mask : one.mask;
  at::Tensor good = at::ones({problem.window[0], problem.window[1]}, at::kLong);
  if (mask) {
    if (mask->dim() == 3) mask = mask->select(0, problem.streams() ? 0 : held);
    good = mask->logical_not().to(at::kLong);
  }
  problem.summed_patterns.sub_(good);
  if (!stays) problem.good_patterns.sub_(good);
}

std::vector<bool> judge_frames(const Config& config, Problem& problem) {
  const auto n = static_cast<std::size_t>(problem.positions.size(0));
  std::vector<bool> stays(n, true);
  problem.suspected.assign(n, false);
  const bool automatic = skips_bad_frames(config);
  std::vector<std::int64_t> all_bad;
  for (auto& [what, places] :
       bad_frames(problem.statistics, problem.evidence, problem.window[0] * problem.window[1])) {
    std::vector<std::int64_t> frames;
    for (const std::int64_t k : places) {
      frames.push_back(problem.frames[static_cast<std::size_t>(k)]);
      if (automatic) stays[static_cast<std::size_t>(k)] = false;
    }
    all_bad.insert(all_bad.end(), frames.begin(), frames.end());
    const std::string words = frame_words(frames) + " " + what;
    if (automatic) {
      problem.left_out.push_back(words);
    } else {
      problem.found.push_back({words + ": fitted as they are; data.skip = \"auto\", or a list of "
                                       "frames, leaves them out",
                               "bad frames (data.skip)", Doubt::kFrames});
      for (const std::int64_t k : places) problem.suspected[static_cast<std::size_t>(k)] = true;
    }
  }
  // Without most of them there is nothing to compare with.
  if (2 * all_bad.size() > n) problem.suspected.assign(n, false);
  if (automatic && all_bad.size() == n) {
    throw DataError(
        config.data.file + ": data.patterns \"" + config.data.patterns +
        "\" must have a frame that can take part, got none: " + problem.left_out.back());
  }
  if (automatic && 4 * all_bad.size() > n) {
    problem.found.push_back({"data.skip = \"auto\" leaves out " + std::to_string(all_bad.size()) +
                                 " of " + words::counted(static_cast<std::int64_t>(n), "frame"),
                             ""});
  }
  // Marks that come and go.
  double pixels = 0.0, value = 0.0;
  std::int64_t frames = 0;
  for (std::size_t k = 0; k < n; ++k) {
    if (!stays[k]) continue;
    const double* row = problem.evidence.const_data_ptr<double>() +
                        k * static_cast<std::size_t>(FrameEvidence::kColumns);
    pixels += row[FrameEvidence::kMarkers];
    frames += row[FrameEvidence::kMarkers] > 0.0 ? 1 : 0;
    value = std::max(value, row[FrameEvidence::kMarker]);
  }
  if (pixels > 0.0) {
    problem.found.push_back({words::counted(static_cast<std::int64_t>(pixels), "pixel") + " of " +
                                 words::counted(frames, "frame") +
                                 (pixels == 1.0 ? " holds a value like " : " hold values like ") +
                                 marker_words(value, problem.stored_type == "float32") +
                                 ", with which detectors mark what they did not measure, but not "
                                 "the same pixels in all frames: taken for counts "
                                 "(detector.saturation masks them)",
                             "marks that are taken for counts (detector.saturation)",
                             Doubt::kPixels});
  }
  return stays;
}

void keep_positions(const Config& config, Problem& problem, const std::vector<bool>& stays) {
  if (std::find(stays.begin(), stays.end(), false) == stays.end()) return;
  std::vector<std::int64_t> kept, number_of(stays.size(), -1);
  for (std::size_t k = 0; k < stays.size(); ++k) {
    if (!stays[k]) continue;
    number_of[k] = static_cast<std::int64_t>(kept.size());
    kept.push_back(static_cast<std::int64_t>(k));
  }
  std::vector<std::int64_t> held;
  // In place: there may be no room for a second copy.
  const bool streams = problem.streams();
  const bool each = problem.mask && problem.mask->dim() == 3;
  const auto move_row = [](const at::Tensor& rows, std::size_t from, std::size_t to) {
    const std::size_t bytes =
        static_cast<std::size_t>(rows.numel() / rows.size(0)) * rows.element_size();
    auto* data = static_cast<char*>(rows.data_ptr());
    std::memmove(data + to * bytes, data + from * bytes, bytes);
  };
  for (std::size_t k = 0; k < problem.held.size(); ++k) {
    const std::int64_t number = number_of[static_cast<std::size_t>(problem.held[k])];
    if (number < 0) continue;
    if (!streams && k != held.size()) move_row(problem.patterns, k, held.size());
    if (each && k != held.size()) move_row(*problem.mask, k, held.size());
    held.push_back(number);
  }
  const at::Tensor rows = at::tensor(kept);
  problem.held = std::move(held);
  const auto here = static_cast<std::int64_t>(problem.held.size());
  std::vector<std::int64_t> frames;
  for (const std::int64_t k : kept) frames.push_back(problem.frames[static_cast<std::size_t>(k)]);
  problem.frames = std::move(frames);
  problem.positions = problem.positions.index_select(0, rows).contiguous();
  problem.statistics = problem.statistics.index_select(0, rows).contiguous();
  problem.evidence = problem.evidence.index_select(0, rows).contiguous();
  problem.suspected.assign(kept.size(), false);  // the suspected ones are those that went
  if (each) problem.mask = problem.mask->narrow(0, 0, here);
  if (streams) {
    problem.source = std::make_shared<FilePatterns>(config, problem);
  } else {
    problem.patterns = problem.patterns.narrow(0, 0, here);
    problem.source = std::make_shared<MemoryPatterns>(problem.patterns);
  }
}

void summarise_patterns(const Config& config, Problem& problem) {
  const std::int64_t n = problem.positions.size(0);
  const std::int64_t pixels = problem.window[0] * problem.window[1];
  problem.counts_per_pattern = problem.statistics.select(1, 0).contiguous();
  problem.pattern_checksums = problem.statistics.select(1, 9).contiguous();
  double largest = -std::numeric_limits<double>::infinity();
  const auto* row = problem.statistics.const_data_ptr<double>();
  for (std::int64_t k = 0; k < n; ++k, row += kStatistics) {
    problem.total_counts += row[0];
    if (row[5] < static_cast<double>(pixels)) largest = std::max(largest, row[1]);
    problem.negative_pixels += static_cast<std::int64_t>(row[2]);
    problem.sentinel_pixels += static_cast<std::int64_t>(row[3]);
    problem.saturated_pixels += static_cast<std::int64_t>(row[4]);
    problem.masked_pixels += static_cast<std::int64_t>(row[5]);
  }
  row = problem.statistics.const_data_ptr<double>();
  for (std::int64_t k = 0; k < n; ++k, row += kStatistics) {
    if (row[1] == largest) problem.pixels_at_largest += static_cast<std::int64_t>(row[6]);
    if (row[1] == largest) problem.pixels_below_largest += static_cast<std::int64_t>(row[10]);
    if (row[1] == largest - 1.0) problem.pixels_below_largest += static_cast<std::int64_t>(row[6]);
  }
  problem.mean_counts_per_pattern = problem.total_counts / static_cast<double>(n);
  problem.largest_count = largest;
  const std::string where = config.data.file + ": data.patterns \"" + config.data.patterns + "\"";
  if (problem.masked_pixels == n * pixels) {
    throw DataError(where +
                    " must have an unmasked pixel (data.mask, detector.saturation), got all of "
                    "them masked");
  }
  if (!(problem.total_counts > 0.0)) {
    throw DataError(where +
                    " must hold counts over unmasked pixels (data.mask, detector.dark, "
                    "detector.saturation), got a sum of " +
                    words::exact(problem.total_counts));
  }
  if (problem.masked_pixels > 0) {
    problem.good_share =
        problem.good_patterns.to(at::kDouble).div_(static_cast<double>(n)).contiguous();
  }
}

}  // namespace ptyle::driver
