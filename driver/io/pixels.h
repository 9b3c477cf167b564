// What fixed pixels of a detector tell of themselves: marks of what was not measured, pixels that
// are hot, pixels that are dead.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ptyle::driver {

struct Problem;

// Values that detectors and converters mark pixels with which they did not measure. The largest
// value of an unsigned type is taken for such wherever it occurs.
template <typename T>
bool is_large_marker(T value) {
  // Gaps are the largest value of 16, 20, 31 or 32 bits, pixels that are defective may be one less.
  constexpr std::int64_t k16 = 65535, k20 = 1048575, k31 = 2147483647, k32 = 4294967295;
  if constexpr (sizeof(T) <= 1) {
    return false;
  } else if constexpr (std::is_same_v<T, std::uint16_t>) {
    return value == k16 - 1;
  } else if constexpr (std::is_same_v<T, std::int16_t>) {
    return value == std::numeric_limits<T>::max();
  } else if constexpr (std::is_integral_v<T>) {
    if (value == std::numeric_limits<T>::max()) return std::is_signed_v<T>;
    if constexpr (std::is_unsigned_v<T>) {
      if (value == std::numeric_limits<T>::max() - 1) return true;
    }
    if constexpr (sizeof(T) > 4) {
      if (value == static_cast<T>(k32) || value == static_cast<T>(k32 - 1)) return true;
      if (value == static_cast<T>(k31)) return true;
    }
    return value == T(k16) || value == T(k16 - 1) || value == T(k20);
  } else {
    // A 32-bit float has 4294967296 in place of those of 32 bits.
    return value == T(k16) || value == T(k16 - 1) || value == T(k20) ||
           value == static_cast<T>(k32) || value == static_cast<T>(k32 - 1) ||
           value == std::numeric_limits<T>::max();
  }
}

// No count is negative: one whole number in the same pixels of all frames is a mark.
class NegativeMarks {
 public:
  explicit NegativeMarks(std::size_t pixels) : value_(pixels, 0.0), votes_(pixels, 0) {}

  template <typename T>
  void add(const T* stored) {
    if constexpr (std::is_signed_v<T>) {
      const auto is_mark = [](T value) {
        if (!(value < T(0))) return false;
        if constexpr (std::is_floating_point_v<T>) return std::floor(value) == value;
        return true;
      };
      bool any = false;
      for (std::size_t k = 0; k < value_.size() && !any; ++k) any = is_mark(stored[k]);
      if (!any) return;  // a frame that is bad itself
      ++frames_;
      for (std::size_t k = 0; k < value_.size(); ++k) {
        const double value = is_mark(stored[k]) ? static_cast<double>(stored[k]) : 0.0;
        if (value != 0.0) ++occurrences_[value];
        // The value that most frames have there (Boyer and Moore's vote).
        if (votes_[k] == 0) value_[k] = value;
        votes_[k] += value == value_[k] ? 1 : -1;
      }
    }
  }
  int frames() const { return frames_; }

  struct Mark {
    double value = 0.0;
    std::vector<std::uint8_t> pixels;  // stored; 1 where it is, in all frames but one
    std::int64_t count = 0;
  };
  // Without those that come and go elsewhere: what a dark value leaves of no counts.
  std::vector<Mark> found() const;

 private:
  std::vector<double> value_;
  std::vector<std::int32_t> votes_;
  std::unordered_map<double, std::int64_t> occurrences_;
  int frames_ = 0;
};

// Pixels, or some side by side, that are 30 times brighter than all around them in most of some
// patterns [k, h, w], as no probe makes them, brightest first; and whole rows and columns that are
// half as bright again as those beside them. The beam itself may be that sharp.
struct HotPixels {
  std::vector<std::int64_t> single;              // of the window, row * w + column
  std::vector<std::vector<std::int64_t>> lines;  // likewise, of each
};
HotPixels hot_pixels(const at::Tensor& patterns, bool far_field);

// Pixels without a count in any of so many patterns that chance cannot explain it: whole rows or
// columns (or halves of them, as detectors are made of chips) between others with at least 30
// counts, and smaller holes whose surroundings all have that many. None outside the bright part, at
// the window's edges, or where there are few counts.
struct DeadPixels {
  std::int64_t count = 0;
  std::string words;  // "rows 3, 4 and [7, 9] of the stored pattern"
  // Places in [h, w] of the window with its zero frequency in the middle (far field).
  std::vector<std::size_t> centred;
};
DeadPixels dead_pixels(const Problem& problem);

// What all pixels of the dark part hold in every one of some far-field patterns [k, h, w], where
// that varies by less than counts do: their mean, and its standard deviation. nullopt where they
// are no more than a few counts, or vary as counts.
struct Pedestal {
  double mean = 0.0, deviation = 0.0;
};
std::optional<Pedestal> pedestal_of(const at::Tensor& patterns,
                                    const std::optional<at::Tensor>& mask);

// What one count is, where all of the summed patterns' values are whole multiples of it; 0 where
// they are not whole or are too few to tell.
std::int64_t one_count(const Problem& problem);

// "row 3", of the stored pattern.
std::string line_words(const Problem& problem, const std::vector<std::int64_t>& line);

// "[3, 5], [7, 9] of the stored pattern": the first ten of pixels of the window, and how many more.
std::string pixel_words(const Problem& problem, const std::vector<std::int64_t>& pixels);

}  // namespace ptyle::driver
