#include "driver/io/problem.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include "driver/errors.h"
#include "driver/io/frames.h"
#include "driver/io/guesses.h"
#include "driver/io/patterns.h"
#include "driver/io/positions.h"
#include "driver/io/probe.h"
#include "driver/io/reading.h"
#include "driver/io/sampling.h"
#include "driver/io/stack.h"
#include "driver/io/window.h"
#include "driver/memory.h"
#include "driver/optics/optics.h"
#include "driver/tiles/decomposition.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

// ---- what is known from sizes alone ----

// Before anything of the window's size is made: what reading and looking at the data takes, and
// `patterns_bytes` that are kept, must be free.
void require_room(const Config& config, const Layout& layout, std::int64_t patterns,
                  std::int64_t patterns_bytes) {
  constexpr std::int64_t kSamples = 16;  // look_at_some's
  const double waves = 2.0 * static_cast<double>(config.probe.modes) + 4.0 +
                       (config.object.slices > 1 ? 1.0 : 0.0) +
                       (config.detector.geometry == "near" ? 1.0 : 0.0);
  // The map, waves of 16 bytes, sums and counts over patterns, and a few patterns.
  const double per_pixel = 8.0 * static_cast<double>(layout.per_pixel) + 16.0 * waves + 48.0 +
                           4.0 * static_cast<double>(std::min(patterns, kSamples));
  const double needed =
      per_pixel * static_cast<double>(layout.pixels()) + static_cast<double>(patterns_bytes);
  const auto available = static_cast<double>(available_bytes());
  if (needed <= available) return;
  std::string keys;
  const auto name = [&keys](const std::string& key, const std::string& value) {
    keys += (keys.empty() ? " (" : ", ") + key + " = " + value;
  };
  const auto [h, w] = layout.window;
  const IntegerPair pad = config.detector.pad;
  if (pad[0] > 0 || pad[1] > 0) name("detector.pad", words::shape({pad[0], pad[1]}));
  if (config.probe.modes > 1) name("probe.modes", std::to_string(config.probe.modes));
  if (patterns_bytes > 0 && config.data.stream == false) name("data.stream", "false");
  throw RunError(config.data.file + ": data.patterns \"" + config.data.patterns +
                 "\" as windows of " + std::to_string(h) + " x " + std::to_string(w) +
                 " pixels must fit into the memory that is free, " + gigabytes(available) +
                 ", got a need of about " + gigabytes(needed) + keys + (keys.empty() ? "" : ")"));
}

// Of the patterns' bright disc, in pixels of the window, from a few of them.
double radius_in_patterns(const Config& config, const Stack& stack, const Layout& layout) {
  constexpr std::int64_t kSome = 16;
  const std::int64_t some = std::min(stack.patterns, kSome);
  Problem sample;
  sample.window = layout.window;
  for (std::int64_t k = 0; k < some; ++k) {
    sample.held.push_back(some > 1 ? k * (stack.patterns - 1) / (some - 1) : 0);
  }
  read_patterns(config, stack, make_pixel_map(config, layout), /*tolerant=*/true, sample);
  return bright_radius(sample.pattern_sum);
}

// The aperture of a computed probe must lie inside the frequencies that the window samples.
void require_aperture_inside(const Config& config, const Stack& stack, const Layout& layout,
                             const Problem& problem) {
  if (!config.probe.file.empty()) return;
  need_wavelength(config, problem, "a computed probe (probe.semiangle_mrad)");
  need_pixel(config, problem, "a computed probe (probe.semiangle_mrad)");
  const ProbeOptics optics = probe_optics(config, problem);
  const double edge_per_A = 1e-3 * optics.semiangle_mrad / optics.wavelength_A;
  const double nyquist_per_A = 0.5 / std::max(*problem.pixel_row_A, *problem.pixel_column_A);
  if (edge_per_A <= nyquist_per_A) return;
  constexpr double kFastest = 1000.0, kWidest = 500.0;  // keV, mrad
  std::string slip;
  if (*config.beam.energy_keV > kFastest) {
    slip = "is beam.energy_keV = " + words::exact(*config.beam.energy_keV) + " in eV (" +
           words::exact(1e-3 * *config.beam.energy_keV) + " keV)?";
  } else if (optics.semiangle_mrad > kWidest) {
    slip = "is it in urad (" + words::exact(1e-3 * optics.semiangle_mrad) + " mrad)?";
  } else if (config.beam.kind == "electron" && !problem.detector) {
    // Where the patterns' own disc is that of the aperture the sampling has slipped.
    const double area = static_cast<double>(layout.pixels()) * *problem.pixel_row_A *
                        *problem.pixel_column_A;  // of the window
    const double ratio = edge_per_A * std::sqrt(area) / radius_in_patterns(config, stack, layout);
    slip = sampling_slip(config, ratio);
    if (!slip.empty()) {
      slip += " Or is it too large (" + words::number(optics.semiangle_mrad / ratio, 3) +
              " mrad would fit)?";
    }
  }
  throw_config_error(config, "probe.semiangle_mrad",
                     "lie inside the detector, which reaches to " +
                         words::exact(1e3 * nyquist_per_A * optics.wavelength_A) + " mrad",
                     words::exact(optics.semiangle_mrad) + ": " +
                         (slip.empty() ? "is it in mrad, and are beam.energy_keV = " +
                                             words::exact(*config.beam.energy_keV) + " and " +
                                             sampling_words(config) + " in their units?"
                                       : slip));
}

// The position unit that would bring the probes of neighbours together, where they are apart; in
// words, or empty.
std::string unit_for_steps(const Config& config, const at::Tensor& positions,
                           const Problem& problem) {
  const double step = neighbour_distance(positions);
  // The probe takes its time where windows are large.
  if (2.0 * step < static_cast<double>(std::min(problem.window[0], problem.window[1]))) return "";
  Problem with_probe = problem;
  NumberPair shift{};
  load_probe(config, with_probe, shift);
  const double diameter = probe_diameter(with_probe.probe);
  return step > diameter ? usual_unit(config, problem.pixel_row_A, step, diameter) : "";
}

// An object that no machine holds is a mistake: in which key, and what would be usual.
[[noreturn]] void refuse_object(const Config& config, const at::Tensor& positions,
                                const ObjectFrame& frame, const Problem& problem) {
  const std::string rule = "keep the object below a million pixels a side";
  if (!problem.far_position.empty()) throw DataError(problem.far_position);
  if (static_cast<double>(config.object.padding) > 0.1 * kLargestSide) {
    throw_config_error(config, "object.padding", rule, std::to_string(config.object.padding));
  }
  if (config.data.affine) {
    const std::array<double, 4>& m = *config.data.affine;
    throw_config_error(config, "data.affine", rule,
                       "[[" + words::exact(m[0]) + ", " + words::exact(m[1]) + "], [" +
                           words::exact(m[2]) + ", " + words::exact(m[3]) + "]]");
  }
  const double span = (frame.positions.amax(0) - frame.positions.amin(0)).max().item<double>();
  const std::string other = unit_for_steps(config, positions, problem);
  throw_config_error(config, "data.position_unit", "suit the positions and " + rule,
                     "\"" + config.data.position_unit + "\", in which they span " +
                         words::number(span, 3) + " pixels" +
                         (other.empty() ? "" : " (" + other + ")"));
}

// What a run will hold, told to `fits` in shapes alone.
void outline(const Config& config, const Stack& stack, const at::Tensor& positions,
             const std::vector<std::int64_t>& counted, const Problem& problem,
             const OutlineCheck& fits) {
  const at::Tensor in_frame = positions.index_select(0, at::tensor(counted));
  const ObjectFrame frame =
      object_frame(in_frame, problem.window, config.object.padding, config.object.shape);
  if (static_cast<double>(std::max(frame.shape[0], frame.shape[1])) > kLargestSide) {
    refuse_object(config, in_frame, frame, problem);
  }
  if (!fits) return;
  const auto only_shape = [](const std::vector<std::int64_t>& shape, at::ScalarType type) {
    return at::empty(shape, at::TensorOptions().dtype(type).device(at::kMeta));
  };
  const auto [h, w] = problem.window;
  const auto n = static_cast<std::int64_t>(problem.frames.size());
  Problem shapes = problem;
  shapes.positions = positions.index_select(0, at::tensor(problem.frames)).contiguous();
  for (std::int64_t axis = 0; axis < 2; ++axis) {
    shapes.positions.select(1, axis) -= frame.offset[static_cast<std::size_t>(axis)];
  }
  shapes.object_shape = {config.object.slices, frame.shape[0], frame.shape[1]};
  shapes.held.resize(static_cast<std::size_t>(n));
  const std::int64_t in_memory = streams_patterns(config, n, h * w) ? 0 : n;
  const std::int64_t per_pixel = config.detector.bin[0] * config.detector.bin[1];
  shapes.patterns =
      only_shape({in_memory, h, w}, kept_type(stack.info.type, is_calibrated(config), per_pixel));
  shapes.probe = only_shape({config.probe.modes, h, w}, at::kComplexDouble);
  if (config.object.slices > 1) shapes.propagator = only_shape({h, w}, at::kComplexDouble);
  if (config.detector.geometry == "near") shapes.detector = only_shape({h, w}, at::kComplexDouble);
  shapes.between_pixels = true;
  try {
    fits(shapes);
  } catch (const RunError& error) {
    const std::string other = unit_for_steps(config, in_frame, problem);
    if (other.empty()) throw;
    std::string text = error.what();
    text +=
        "; is data.position_unit = \"" + config.data.position_unit + "\" right (" + other + ")?";
    throw RunError(text);
  }
}

}  // namespace

Problem load_geometry(const Config& config, const OutlineCheck& fits) {
  Problem problem;
  Located located = locate_in_data(config, "data.patterns", config.data.patterns);
  const Stack stack = open_stack(std::move(located), "data.patterns");
  problem.stored_type = stack.info.stored_type;
  problem.stored_shape = stack.info.shape;
  const Layout layout = lay_out(config, stack.frame);
  problem.window = layout.window;
  problem.zero_at = layout.zero_at;
  problem.zero_offset = layout.zero_offset;

  // What is cheap to check comes first: nothing large is made before it is known to fit.
  require_room(config, layout, stack.patterns, 0);
  set_wavelength(config, problem);
  set_object_pixel(config, problem);
  compare_with_file(config, stack, problem);
  require_aperture_inside(config, stack, layout, problem);
  const std::vector<bool> chosen =
      chosen_frames(config, stack.patterns, [&](const std::string& key, const std::string& name) {
        const Located at = locate_in_data(config, key, name);
        return at.file.read(at.name);
      });
  Choice choice{config, stack, problem, chosen};
  if (const std::vector<std::int64_t> left = choice.all_used();
      static_cast<std::int64_t>(left.size()) < stack.patterns) {
    problem.left_out.push_back(
        std::to_string(stack.patterns - static_cast<std::int64_t>(left.size())) + " of the " +
        words::counted(stack.patterns, "frame") + " by data.select and data.skip");
  }
  choice.without_gaps();
  double epsilon = 0.0;
  at::Tensor positions = stored_positions(config, stack, chosen, epsilon);
  choice.with_finite_positions(positions);
  at::Tensor pixels = positions.clone();
  to_pixels(config, problem, pixels);
  const std::vector<std::int64_t> far = choice.without_far_positions(positions, pixels);
  problem.frames = choice.all_used();
  doubt_rounding(config, positions.index_select(0, at::tensor(problem.frames)), epsilon, problem);
  if (problem.frames.empty()) {
    throw DataError(stack.at.where("data.patterns") +
                    " must have a frame that can take part, got none: " + problem.left_out.back());
  }
  // The object reaches over frames that take no part too, unless their positions are the trouble.
  std::vector<bool> is_trouble(chosen.size(), false);
  for (const std::int64_t frame : far) is_trouble[static_cast<std::size_t>(frame)] = true;
  std::vector<std::int64_t> counted;
  for (std::int64_t frame = 0; frame < stack.patterns; ++frame) {
    if (choice.is_used(frame) ||
        (!is_trouble[static_cast<std::size_t>(frame)] && is_finite_pair(positions, frame))) {
      counted.push_back(frame);
    }
  }
  turn(config, counted, positions);
  to_pixels(config, problem, positions);
  outline(config, stack, positions, counted, problem, fits);
  const PixelMap map = make_pixel_map(config, layout);
  problem.first_stored = at::empty({map.window[0], map.window[1]}, at::kLong);
  for (std::int64_t pixel = 0; pixel < map.pixels(); ++pixel) {
    problem.first_stored.data_ptr<std::int64_t>()[pixel] =
        map.source[static_cast<std::size_t>(pixel * map.per_pixel)];
  }

  NumberPair shift = {0.0, 0.0};
  load_probe(config, problem, shift);
  positions.select(1, 0) -= shift[0];
  positions.select(1, 1) -= shift[1];

  choose_what_moves(config, positions.index_select(0, at::tensor(problem.frames)), problem);

  ObjectFrame frame = object_frame(positions.index_select(0, at::tensor(counted)), problem.window,
                                   config.object.padding, config.object.shape);
  for (std::int64_t axis = 0; axis < 2; ++axis) {
    positions.select(1, axis) -= frame.offset[static_cast<std::size_t>(axis)];
  }
  problem.file_positions = positions;
  problem.positions = positions.index_select(0, at::tensor(problem.frames)).contiguous();
  problem.offset = {frame.offset[0] + shift[0], frame.offset[1] + shift[1]};
  problem.object_shape = {config.object.slices, frame.shape[0], frame.shape[1]};

  if (config.object.slices > 1) {
    const std::string reason = "object.slices = " + std::to_string(config.object.slices);
    need_wavelength(config, problem, reason);
    need_pixel(config, problem, reason);
    problem.slice_distance_A =
        10.0 * config.object.thickness_nm / static_cast<double>(config.object.slices);
    problem.propagator = propagator_over(config, problem, problem.slice_distance_A);
  }
  if (config.detector.geometry == "near") {
    problem.detector = propagator_over(config, problem, 1e10 * *config.detector.distance_m);
  }
  look_at_some(config, stack, map, problem);
  return problem;
}

Problem load_problem(const Config& config, const OutlineCheck& fits) {
  Problem problem = load_geometry(config, [&](const Problem& outline) {
    if (fits) fits(outline);
    Layout layout;
    layout.window = outline.window;
    layout.per_pixel = config.detector.bin[0] * config.detector.bin[1];
    require_room(config, layout, outline.positions.size(0),
                 static_cast<std::int64_t>(outline.patterns.nbytes()));
  });
  std::vector<std::int64_t> all(static_cast<std::size_t>(problem.positions.size(0)));
  std::iota(all.begin(), all.end(), 0);
  load_patterns(config, problem, std::move(all));
  const std::vector<bool> stays = judge_frames(config, problem);
  for (std::size_t k = 0; k < stays.size(); ++k) {
    if (!stays[k] || problem.suspected[k]) {
      uncount(problem, static_cast<std::int64_t>(k), stays[k]);
    }
  }
  keep_positions(config, problem, stays);
  summarise_patterns(config, problem);
  return problem;
}

std::string mask_words(const Problem& problem) {
  const auto pixels =
      static_cast<double>(problem.positions.size(0) * problem.window[0] * problem.window[1]);
  return words::number(100.0 * static_cast<double>(problem.masked_pixels) / pixels, 3) +
         " % of the pixels (" + std::to_string(problem.sentinel_pixels) +
         " marked by the largest value of their type, " + std::to_string(problem.saturated_pixels) +
         " saturated)";
}

}  // namespace ptyle::driver
