// Positions from files and rasters to pixels, and the frames that take part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/io/problem.h"
#include "driver/io/stack.h"

namespace ptyle::driver {

// An object wider than this is a mistake in a unit.
inline constexpr double kLargestSide = 1e6;

// One for each of the file's frames, in the file's unit; NaN where there is none. A raster, or a
// list, may also have one for each frame that data.select and data.skip leave.
// epsilon: of the type that holds them; 0 where they are whole numbers or a raster.
at::Tensor stored_positions(const Config& config, const Stack& stack,
                            const std::vector<bool>& chosen, double& epsilon);
bool is_finite_pair(const at::Tensor& positions, std::int64_t frame);

// Turned, or put through the affine matrix, about the mean of `counted`; in their own unit.
void turn(const Config& config, const std::vector<std::int64_t>& counted, at::Tensor& positions);
// From data.position_unit, in place.
void to_pixels(const Config& config, const Problem& problem, at::Tensor& positions);

// Stage positions far from zero lose their fractions in a type that is too short for both.
// `epsilon` as of stored_positions.
void doubt_rounding(const Config& config, const at::Tensor& stored, double epsilon,
                    Problem& problem);

// The frames that take part, while it is found out which do.
struct Choice {
  const Config& config;
  const Stack& stack;
  Problem& problem;
  std::vector<bool> used;  // by frame of the file

  bool is_used(std::int64_t frame) const { return used[static_cast<std::size_t>(frame)]; }
  std::vector<std::int64_t> of_used(const std::vector<std::int64_t>& frames) const;
  std::vector<std::int64_t> all_used() const;

  // Each refuses such frames (DataError), or leaves them out where data.skip asks for it.
  void without_gaps();
  // positions [frames, 2] in the file's unit.
  void with_finite_positions(const at::Tensor& positions);
  // Doubts frames far from all others instead of refusing them. Returns them, used or not.
  // `pixels`: positions in pixels.
  std::vector<std::int64_t> without_far_positions(const at::Tensor& stored,
                                                  const at::Tensor& pixels);

 private:
  void leave_out(const std::vector<std::int64_t>& frames, const std::string& why);
};

}  // namespace ptyle::driver
