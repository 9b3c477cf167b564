// Everything a reconstruction needs from files, read, checked and in the program's conventions.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/doubt.h"
#include "driver/optics/optics.h"

namespace ptyle::driver {

// Some patterns, dense, of the type they are kept in.
struct PatternBlock {
  at::Tensor patterns;             // [k, h, w]
  std::optional<at::Tensor> mask;  // [h, w] or [k, h, w] bool, where it is not Problem::mask
};

// Where patterns come from.
class PatternSource {
 public:
  virtual ~PatternSource() = default;
  virtual at::ScalarType type() const = 0;
  // indices [k] int64, of Problem::held. Safe on any thread.
  virtual PatternBlock rows(const at::Tensor& indices) const = 0;
  // What will be asked for next, the very tensors, in about this order; and that it will not.
  virtual void expect(const std::vector<at::Tensor>&) const {}
  virtual void forget() const {}
};

// All patterns in memory, once.
class MemoryPatterns final : public PatternSource {
 public:
  explicit MemoryPatterns(at::Tensor patterns) : patterns_(std::move(patterns)) {}
  at::ScalarType type() const override { return patterns_.scalar_type(); }
  PatternBlock rows(const at::Tensor& indices) const override;

 private:
  at::Tensor patterns_;
};

struct Problem {
  // Of the file's frames only those that take part are known to the program; `positions`, and all
  // that is by position, are theirs. Empty: all frames, in order.
  std::vector<std::int64_t> frames;
  // [frames of the file, 2] float64, the object's frame of coordinates; NaN where a frame has no
  // position. Undefined: `positions`.
  at::Tensor file_positions;
  std::vector<std::string> left_out;  // in words, which frames were left out and why
  std::vector<Doubt> found;           // about what was read
  std::vector<std::string> notes;     // in words, what was done to the data on reading
  std::string far_position;           // in words, where one of `positions` is far from the others
  std::vector<std::int64_t> hot;  // pixels of the window, row * w + column, that are doubted as hot
  std::optional<at::Tensor> unmeasured;  // [h, w] bool: fixed pixels that the detector marks

  // The positions whose patterns are here, ascending; all of them on one rank.
  std::vector<std::int64_t> held;
  // Empty where they are read from the file again in every iteration. Else
  // [held, h, w] uint8 | int16 | uint16 | int32 | float32, zero frequency at [0, 0] (far
  // field) or in window order (near field); masked pixels are 0.
  at::Tensor patterns;
  std::shared_ptr<const PatternSource> source;  // all of `held`, from memory or from the file
  bool streams() const { return patterns.size(0) < static_cast<std::int64_t>(held.size()); }
  std::optional<at::Tensor> mask;  // [h, w] or [held, h, w] bool, true = bad, as patterns

  at::Tensor positions;            // [positions, 2] float64, the object's frame
  NumberPair offset = {0.0, 0.0};  // position in the file's frame - position here
  IntegerPair window = {0, 0};     // [h, w]
  std::array<std::int64_t, 3> object_shape = {0, 0, 0};  // [slices, rows, columns]

  // Far field: where the zero frequency is in the oriented pattern (data.zero_frequency,
  // detector.center), and how far beyond the window's index [0, 0], in its pixels; a fraction.
  NumberPair zero_at = {0.0, 0.0}, zero_offset = {0.0, 0.0};

  std::optional<double> pixel_row_A, pixel_column_A;  // the object's pixel
  // [row, column], where it is known.
  std::optional<std::vector<double>> pixel_nm() const {
    if (!pixel_row_A || !pixel_column_A) return std::nullopt;
    return std::vector<double>{*pixel_row_A / 10, *pixel_column_A / 10};
  }
  std::optional<double> wavelength_A;
  double slice_distance_A = 0.0;         // between slices; 0 for one slice
  std::optional<at::Tensor> propagator;  // [h, w] complex128; more than one slice
  std::optional<at::Tensor> detector;    // [h, w] complex128; near field

  // Where positions lie between pixels (detector.subpixel): patches of the object are moved, not
  // the probe; 0, or how many pixels around a window that takes.
  std::int64_t reach = 0;
  bool moves_object() const { return reach > 0; }
  bool between_pixels = false;  // some position does
  double probe_at_edge = 0.0;   // share of the probe's energy in the window's outer eighth

  // [modes, h, w] complex128, centred in the window. With a zero_offset it carries the ramp that
  // moves the exit wave's diffraction pattern by it; without_ramp takes it off.
  at::Tensor probe;
  std::string probe_origin;             // in words: "probe.h5: probe (1 mode, 128 x 128)"
  std::int64_t stored_probe_modes = 0;  // modes found in the file; 0 where computed
  // Modes of the file, from 0, that could not have been refined: guesses stand in their place.
  std::vector<std::int64_t> replaced_modes;

  // What was found in each pattern, by position: zeros where it is not held.
  // [positions, 11] float64: sum over unmasked pixels, largest, negative, sentinel, saturated,
  // masked, how many have the largest value, sums of counts times row and column from the zero
  // frequency, checksum of values and mask, how many have one less than the largest
  at::Tensor statistics;
  at::Tensor evidence;       // [positions, FrameEvidence::kColumns] float64, likewise
  at::Tensor good_patterns;  // [h, w] int64, how many held patterns measured a pixel
  // By position, which are said to be bad and stay; what the data mean is asked of the others.
  std::vector<bool> suspected;
  at::Tensor pattern_sum;      // [h, w] float64, of the held and not suspected, masked pixels as 0
  at::Tensor summed_patterns;  // [h, w] int64, how many of these measured a pixel
  // [h, w] int64: the first stored pixel, row * columns + column, of each of the window's; -1: none
  at::Tensor first_stored;
  // Shares of the counts by block of the pattern (frames.h): [kBlocks^2] float64, the median of
  // some frames; undefined where there are too few of them.
  at::Tensor block_shares;

  // From the statistics of all positions. Counts are over unmasked pixels.
  at::Tensor counts_per_pattern;         // [positions] float64
  at::Tensor pattern_checksums;          // [positions] float64
  std::optional<at::Tensor> good_share;  // [h, w] float64, where not every pattern measured it
  double total_counts = 0.0;
  double mean_counts_per_pattern = 0.0;
  double largest_count = 0.0;
  std::int64_t pixels_at_largest = 0;
  std::int64_t pixels_below_largest = 0;  // with one less
  std::int64_t negative_pixels = 0;
  std::int64_t masked_pixels = 0;     // of all positions x h x w
  std::int64_t sentinel_pixels = 0;   // stored value = largest of its unsigned type, masked
  std::int64_t saturated_pixels = 0;  // stored value >= detector.saturation, masked
  std::string stored_type;            // of the patterns in the file: "uint16"
  std::vector<std::int64_t> stored_shape;
};

// Of a computed probe.
ProbeOptics probe_optics(const Config& config, const Problem& problem);
// [h, w] complex128: what problem.probe carries; nullopt without a zero_offset.
std::optional<at::Tensor> probe_ramp(const Problem& problem);
// A probe of the problem [modes, h, w], as the world knows it: what /probe of a result holds.
at::Tensor without_ramp(const Problem& problem, const at::Tensor& probe);

// In three steps, for ranks that each read the patterns of their own tiles: all but the patterns;
// patterns of the positions in `held` (ascending) and their statistics; what these mean together,
// once `statistics` and `good_patterns` are those of all positions.
// `fits` is asked once all sizes are known, before anything large is made: what it is given has
// shapes in place of probe, patterns and propagators (device meta), and no mask.
using OutlineCheck = std::function<void(const Problem& outline)>;
// Reads and checks everything, on one rank. ConfigError where a key is at fault (a path, a missing
// sampling), DataError where the data is.
Problem load_problem(const Config& config, const OutlineCheck& fits = {});
Problem load_geometry(const Config& config, const OutlineCheck& fits = {});
void load_patterns(const Config& config, Problem& problem, std::vector<std::int64_t> held);
void summarise_patterns(const Config& config, Problem& problem);

// In between, once the statistics are those of all positions: which positions stay, of those there
// are. All of them, with words in `found`, unless data.skip is "auto"; the same on every rank.
std::vector<bool> judge_frames(const Config& config, Problem& problem);
// Takes a held pattern out of pattern_sum and summed_patterns, and out of good_patterns unless it
// stays.
void uncount(Problem& problem, std::int64_t held, bool stays);
// Forgets all positions but those that stay. `good_patterns` is left to the caller.
void keep_positions(const Config& config, Problem& problem, const std::vector<bool>& stays);

// The part of load_problem that needs no file, for tests: into the object's frame.
struct ObjectFrame {
  at::Tensor positions;  // [n, 2] float64
  NumberPair offset;
  IntegerPair shape;  // rows, columns
};
ObjectFrame object_frame(const at::Tensor& positions, IntegerPair window, std::int64_t padding,
                         std::optional<IntegerPair> shape);

// "3.1 % of the pixels (...)": what is masked, and by what.
std::string mask_words(const Problem& problem);

}  // namespace ptyle::driver
