// Which frames of a file take part, and what is wrong with those that should not.
//
// The rules (also in README.md, and in the help of data.skip). Counts are those over unmasked
// pixels; medians are over frames with counts; "far" is by a factor of 4 (of the brightest pixel:
// 30) and by 8 standard deviations of the logarithm, which is taken from the median absolute
// deviation. A frame is bad that
// - holds no counts, where by chance fewer than one in a thousand scans would have such a frame;
// - holds far more or far fewer counts than the median, as no more than a fifth of all do;
// - holds nothing in a part of the detector that has at least a tenth of the others' counts, and
//   fewer counts than the median for it: half written;
// - has a brightest pixel far above the median of brightest pixels, likewise;
// - is marked or saturated everywhere; holds values that are not numbers.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"

namespace ptyle::driver {

// "1 frame (60)", "41 frames (41, 42, ..., 50 and 31 more)": number and the first ten.
std::string frame_words(const std::vector<std::int64_t>& frames);

// The lower median, a value that is there; 0 of nothing.
double lower_median(std::vector<double> values);

// What data.select takes and data.skip, where it is a list, leaves. `read(key, dataset)` gives the
// values of a dataset that a key names. ConfigError where an index is no frame or nothing is left.
using DatasetReader = std::function<at::Tensor(const std::string&, const std::string&)>;
std::vector<bool> chosen_frames(const Config& config, std::int64_t frames,
                                const DatasetReader& read);
bool skips_bad_frames(const Config& config);  // data.skip = "auto"

// Of positions [n, 2] those far from all others: one or two (or repeats of them) at an end of the
// scan, behind a gap along rows or columns that is more than half as wide as the rest, and 5 times
// as wide as any gap within it. At most a tenth of all, or two; none where fewer than 8 would be
// left. Those that are not finite are none. The unit does not matter.
std::vector<std::int64_t> far_positions(const at::Tensor& positions);

// What a frame's pixels tell besides Problem::statistics; the columns of Problem::evidence.
struct FrameEvidence {
  // Share of the reference's counts in blocks of the pattern where this frame has none.
  static constexpr std::int64_t kEmptyShare = 0;
  static constexpr std::int64_t kMarkers = 1;  // unmasked pixels that look like a detector's mark
  static constexpr std::int64_t kMarker = 2;   // the largest such value
  static constexpr std::int64_t kFault = 3;    // 1: values that are not finite or do not fit
  static constexpr std::int64_t kColumns = 4;
};

// A pattern is cut into so many blocks along each axis to see whether a part of it is missing.
constexpr std::int64_t kBlocks = 8;
// The block of every pixel [h, w].
std::vector<std::uint8_t> blocks_of(IntegerPair window);

// What is wrong with frames, by kind: (what, frames' places in the statistics).
using BadFrames = std::vector<std::pair<std::string, std::vector<std::int64_t>>>;
// statistics [n, >= 6] as Problem has them; evidence [n, kColumns].
BadFrames bad_frames(const at::Tensor& statistics, const at::Tensor& evidence, std::int64_t pixels);

}  // namespace ptyle::driver
