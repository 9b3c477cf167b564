#include "driver/check/check.h"

#include <algorithm>
#include <cmath>
#include <ostream>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <c10/util/StringUtil.h>

#include <ptyle/ops.h>

#include "csrc/cpu/layout.h"
#include "driver/check/doubts.h"
#include "driver/device.h"
#include "driver/engine/engine.h"
#include "driver/engine/footprint.h"
#include "driver/engine/priors.h"
#include "driver/engine/vectors.h"
#include "driver/io/png.h"
#include "driver/io/problem.h"
#include "driver/run/folder.h"
#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

using words::by;
using words::bytes;
using words::counted;
using words::length;
using words::number;

const char* type_name(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return "uint8";
    case at::kShort:
      return "int16";
    case at::kUInt16:
      return "uint16";
    case at::kInt:
      return "int32";
    default:
      return "float32";
  }
}

// In which iterations, counted from 1.
std::string when(const Config::Schedule& schedule) {
  std::string text = schedule.every == 1 ? "" : ", every " + counted(schedule.every, "iteration");
  if (schedule.start > 0) text += ", from iteration " + std::to_string(schedule.start + 1);
  if (schedule.end) text += ", until iteration " + std::to_string(*schedule.end);
  return text;
}

// What the fractions of positions move, in words.
std::string what_moves(const Config& config, const Problem& problem) {
  const std::string share = number(100.0 * problem.probe_at_edge, 2) +
                            " % of the probe's energy in the window's outer eighth";
  std::string text = problem.moves_object()
                         ? "patches of the object are moved (interpolated, " +
                               words::counted(problem.reach, "pixel") + " around each window)"
                         : std::string("the probe is moved") +
                               (problem.detector ? ", and its exit wave back" : "");
  if (config.detector.subpixel != "auto") return text + ", as detector.subpixel says; " + share;
  return text + ": " + share;
}

// Relative error of the object's gradient, at the start of a run, that a truncated halo makes.
double halo_error(const Config& config, const Problem& problem) {
  Config whole_batch = config;
  whole_batch.reconstruct.batches = 1;
  whole_batch.reconstruct.refine = {"object"};
  whole_batch.reconstruct.optimizer = "descent";
  whole_batch.priors.clear();
  whole_batch.regularisers.clear();
  whole_batch.refine.clear();
  const Ranks one;
  std::vector<std::vector<at::Tensor>> gradients;
  for (const bool exact : {false, true}) {
    DecompositionOptions options = decomposition_options(config, problem);
    if (exact) options.halo = std::nullopt;
    const Decomposition cut =
        decompose(problem.positions, problem.window,
                  {problem.object_shape[1], problem.object_shape[2]}, 1, options);
    Engine engine(whole_batch, problem, cut, one);
    gradients.push_back(engine.owned_gradients(engine.start()));
  }
  double difference = 0.0, size = 0.0;
  for (std::size_t k = 0; k < gradients[0].size(); ++k) {
    difference += power(gradients[0][k] - gradients[1][k]);
    size += power(gradients[1][k]);
  }
  return size > 0.0 ? std::sqrt(difference / size) : 0.0;
}

// What a run refuses once it has begun, before its first update.
void require_start(const Config& config, const Problem& problem) {
  start_probe(config, problem);
  if (config.priors.empty()) return;
  const Decomposition cut = decompose(problem.positions, problem.window,
                                      {problem.object_shape[1], problem.object_shape[2]}, 1,
                                      decomposition_options(config, problem));
  const Ranks one;
  Priors(config, problem, cut, one, at::kCPU).try_out(problem.probe.sizes());
}

}  // namespace

int check(Config config, std::ostream& out, const CheckOptions& options) {
  require_writable_folder(config.output.folder);
  const Problem problem = load_problem(config, [&](const Problem& outline) {
    decompose(outline.positions, outline.window, {outline.object_shape[1], outline.object_shape[2]},
              options.ranks, decomposition_options(config, outline));
  });
  const bool counted_out = !config.reconstruct.batches;
  settle_updates(config, problem);
  const Scan scan = scan_of(problem);
  const auto line = [&out](const std::string& what, const std::string& value) {
    out << what << std::string(what.size() < 18 ? 18 - what.size() : 1, ' ') << value << '\n';
  };
  const auto [slices, rows, columns] = problem.object_shape;
  const std::int64_t n = problem.positions.size(0);
  const auto [h, w] = problem.window;

  line("data", config.data.file);
  std::string shape;
  for (const std::int64_t size : problem.stored_shape) {
    shape += (shape.empty() ? "" : " x ") + std::to_string(size);
  }
  line("patterns", "\"" + config.data.patterns + "\", " + problem.stored_type + ", " + shape +
                       "; kept as " + type_name(problem.patterns.scalar_type()));
  line("frames", std::to_string(n) + " of " + std::to_string(problem.file_positions.size(0)) +
                     " take part" + (problem.left_out.empty() ? "" : "; left out:"));
  for (const std::string& text : problem.left_out) line("", text);
  const Config::Orientation& turned = config.detector.orientation;
  std::string orientation = turned.transpose ? "rows and columns exchanged" : "";
  if (turned.flip_rows)
    orientation += std::string(orientation.empty() ? "" : ", then ") + "rows reversed";
  if (turned.flip_columns) {
    orientation += std::string(orientation.empty() ? "" : ", then ") + "columns reversed";
  }
  line("orientation", orientation.empty() ? "as stored" : orientation);
  if (problem.detector) {
    line("geometry", "near field, " + length(1e10 * *config.detector.distance_m) + " (" +
                         config.object.propagator + ")");
  } else {
    line("geometry", "far field, zero frequency at " +
                         (config.detector.center ? "[" + number(problem.zero_at[0], 6) + ", " +
                                                       number(problem.zero_at[1], 6) + "]"
                                                 : "the " + config.data.zero_frequency) +
                         " of the oriented pattern");
  }
  if (problem.between_pixels) {
    line("sub-pixel", what_moves(config, problem));
  } else {
    line("sub-pixel", "no position lies between pixels: nothing is moved");
  }
  const std::string kernels = cpu_kernels(h, w);
  line("window", by(h, w) + " pixels");
  line("kernels", kernels + (cpu::is_slow(h) || cpu::is_slow(w) ? ", slow: see the doubts" : ""));
  line("positions",
       std::to_string(n) + " from " +
           (config.data.raster_step ? "a raster" : "\"" + config.data.positions + "\"") +
           ", unit " + config.data.position_unit +
           (config.data.affine ? ", affine matrix applied"
            : config.data.rotation_deg != 0.0
                ? ", turned by " + number(config.data.rotation_deg, 6) + " degrees"
                : ""));
  if (problem.wavelength_A) {
    line("beam", config.beam.kind + ", " + number(*config.beam.energy_keV, 6) +
                     " keV, wavelength " + number(*problem.wavelength_A, 7) + " A");
  } else {
    line("beam", "energy not given: the wavelength is not known (and not needed)");
  }
  if (problem.pixel_row_A) {
    line("pixel size",
         length(*problem.pixel_row_A) + " x " + length(*problem.pixel_column_A) + " of the object");
    line("field of view", length(*problem.pixel_row_A * static_cast<double>(rows)) + " x " +
                              length(*problem.pixel_column_A * static_cast<double>(columns)));
  } else {
    line("pixel size", "not given: lengths are in pixels of the object");
    line("field of view", by(rows, columns) + " pixels");
  }
  line("object", counted(slices, "slice") + " of " + by(rows, columns) + ", its corner at (" +
                     number(problem.offset[0], 8) + ", " + number(problem.offset[1], 8) +
                     ") of the positions' frame");
  if (slices > 1) {
    line("propagator", config.object.propagator + ", " + length(problem.slice_distance_A) +
                           " between slices, thickness " +
                           length(10.0 * config.object.thickness_nm));
  } else {
    line("propagator", "none: one slice");
  }
  line("band limit", "none");
  line("probe",
       problem.probe_origin + "; " + counted(config.probe.modes, "mode") + ", diameter " +
           number(scan.diameter, 3) + " pixels" +
           (problem.pixel_row_A ? " (" + length(scan.diameter * *problem.pixel_row_A) + ")" : ""));
  line("step",
       number(scan.step, 4) + " pixels between neighbours" +
           (problem.pixel_row_A ? " (" + length(scan.step * *problem.pixel_row_A) + ")" : ""));
  line("probe overlap", number(100.0 * scan.overlap(), 3) + " % (linear, of neighbouring probes)");
  line("counts", number(problem.total_counts) + " in all, " +
                     number(problem.mean_counts_per_pattern) + " a pattern, largest " +
                     number(problem.largest_count, 10) + ", " +
                     std::to_string(problem.negative_pixels) + " negative");
  if (problem.pixel_row_A) {
    const double area_A2 = scan.area * *problem.pixel_row_A * *problem.pixel_column_A;
    const double dose = problem.total_counts / area_A2;
    line("dose", config.beam.kind == "electron"
                     ? number(dose) + " e/A^2 within the window"
                     : number(1e8 * dose) + " photons/um^2 within the window");
  } else {
    line("dose", number(problem.total_counts / scan.area) + " counts a pixel of the scanned area");
  }
  line("mask", mask_words(problem));
  for (const std::string& text : problem.notes) line("note", text);
  line("likelihood", config.reconstruct.likelihood);
  const Decomposition cut = decompose(problem.positions, problem.window, {rows, columns},
                                      options.ranks, decomposition_options(config, problem));
  const std::int64_t tiles = cut.grid.tiles();
  line("tile grid", by(cut.grid.rows(), cut.grid.columns()) + ", exchange " +
                        std::string(cut.exchange.name) + ", on " + counted(options.ranks, "rank"));
  const auto halo = cut.grid.halo();
  if (tiles == 1) {
    line("halo", "none: one tile");
  } else {
    std::vector<std::int64_t> load(static_cast<std::size_t>(cut.tiles.size()), 0);
    for (const std::int64_t tile : cut.tile_of) ++load[static_cast<std::size_t>(tile)];
    const auto [least, most] = std::minmax_element(load.begin(), load.end());
    Rectangle smallest = cut.grid.owned(0), largest = smallest;
    for (std::int64_t tile = 1; tile < tiles; ++tile) {
      const Rectangle owned = cut.grid.owned(tile);
      smallest.rows = std::min(smallest.rows, owned.rows);
      smallest.columns = std::min(smallest.columns, owned.columns);
      largest.rows = std::max(largest.rows, owned.rows);
      largest.columns = std::max(largest.columns, owned.columns);
    }
    line("tiles", "from " + by(smallest.rows, smallest.columns) + " to " +
                      by(largest.rows, largest.columns) + " pixels, with " +
                      std::to_string(*least) + " to " + counted(*most, "position"));
    line("halo",
         (config.tiles.halo ? "truncated, " : "exact, ") + by(halo[0], halo[1]) + " pixels");
    line("energy cut", number(100.0 * worst_energy_cut(problem, cut), 3) +
                           " % of the illumination in the worst tile lies beyond its halo");
    if (cut.exchange.hides) {
      std::int64_t inside = 0;
      const double* p = problem.positions.const_data_ptr<double>();
      for (std::int64_t k = 0; k < n; ++k) {
        const Rectangle window{static_cast<std::int64_t>(std::floor(p[2 * k])),
                               static_cast<std::int64_t>(std::floor(p[2 * k + 1])), h, w};
        inside += contains(cut.grid.owned(cut.tile_of[static_cast<std::size_t>(k)]),
                           intersection(window, cut.grid.object()))
                      ? 1
                      : 0;
      }
      line("hidden",
           number(100.0 * static_cast<double>(inside) / static_cast<double>(n), 3) +
               " % of the windows lie within their tile: worked on while messages travel");
    }
    if (options.halo_error) {
      // The first gradient knows nothing of what copied voxels do to the next ones.
      line("halo error", cut.exchange.copies_voxels
                             ? "not known before a run with copied voxels; see energy cut"
                             : number(halo_error(config, problem), 3) +
                                   " of the object's gradient at the start, against exact halos");
    }
  }
  std::int64_t most_bytes = 0, most_held = 0;
  for (std::int64_t rank = 0; rank < options.ranks; ++rank) {
    most_bytes = std::max(most_bytes, predicted_bytes(config, problem, cut, rank));
    most_held =
        std::max(most_held,
                 static_cast<std::int64_t>(cut.positions_of_rank(rank, problem.positions).size()));
  }
  line("memory",
       bytes(most_bytes) + " predicted for " + (options.ranks == 1 ? "a run" : "the largest rank") +
           ", tensors " + number(static_cast<double>(most_bytes - kBaseBytes) / 1e6, 6) + " MB" +
           ", of it patterns " +
           bytes(most_held * h * w * static_cast<std::int64_t>(problem.patterns.element_size())) +
           (problem.streams() ? " (streamed from the file)" : "") + "; the object has " +
           bytes(slices * rows * columns *
                 static_cast<std::int64_t>(c10::elementSize(complex_type(config)))));
  double noise = 0.0;  // that the counts leave in a phase
  for (std::size_t k = 0; k < config.priors.size(); ++k) {
    const Config::Prior& prior = config.priors[k];
    const PriorCard card = load_prior(config, k, cut, at::kCPU)->card();
    if (k == 0) noise = counting_noise(problem, cut, Ranks());
    line("prior",
         prior.kind + " on the " + prior.on + ", a " + card.kind + " that sees " +
             (card.receptive_field < 0 ? std::string("all of the image")
                                       : counted(card.receptive_field, "pixel") + " around each") +
             ", from " + prior.file);
    std::string how = "strength " + number(prior.strength);
    if (card.kind == "denoiser") {
      how += ", noise " + number(noise_of(prior, card, noise));
      if (prior.on != "probe") {
        how += prior.noise ? " (the counts leave " + number(noise, 3) + ")" : " (of the counts)";
      }
    }
    how += prior.every_batches == 0 ? ", once per iteration"
                                    : ", every " + counted(prior.every_batches, "batch");
    if (prior.start > 0) how += ", after " + counted(prior.start, "iteration");
    if (prior.end) how += ", until iteration " + std::to_string(*prior.end);
    line("", how);
  }
  line("optimizer",
       config.reconstruct.optimizer + ", " + counted(config.reconstruct.batch_count(), "batch") +
           " per iteration of " +
           counted(std::max<std::int64_t>(1, n / config.reconstruct.batch_count()), "position") +
           (counted_out ? " (auto)" : ""));
  for (const std::string& name : config.reconstruct.refine) {
    const auto found = config.refine.find(name);
    const Config::Refine refine = found == config.refine.end() ? Config::Refine{} : found->second;
    line("refine",
         name + when(refine) + (refine.step == 1.0 ? "" : ", step " + number(refine.step)));
  }
  for (const Config::Condition& one : config.constraints) {
    line("constraint",
         one.kind + " of the " + one.on + when(one) + ", weight " + number(one.weight));
  }
  for (const Config::Condition& one : config.regularisers) {
    line("regulariser",
         one.kind + " of the " + one.on + when(one) + ", weight " + number(one.weight));
  }
  line("device", words_for(config, problem.window));
  std::int64_t most_on_gpu = 0;
  for (std::int64_t rank = 0; rank < options.ranks; ++rank) {
    const TensorBytes tensors = predicted_tensors(config, problem, cut, rank, /*on_gpu=*/true);
    most_on_gpu = std::max(most_on_gpu, tensors.unknowns + tensors.work);
  }
  line("on a GPU", bytes(most_on_gpu) +
                       " at least, more makes it faster; patterns stay in the host's "
                       "memory");
  line("read", problem.streams() ? "each pattern once and again in every iteration (data.stream)"
                                 : "1.0 times each pattern (kept in memory)");

  line("output", config.output.folder +
                     (holds_a_run(config.output.folder)
                          ? ", which is not empty: `ptyle run` wants --resume or --overwrite"
                          : ""));
  require_start(config, problem);

  std::vector<Doubt> found = doubts(config, problem, cut);
  if (const std::string text = refused_device(config); !text.empty()) {
    found.push_back({"a run here is refused: " + text, ""});
  }
  if (options.ranks == 1 && config.device != "cuda") {
    const std::string shortage = memory_shortage(config, problem, cut, 0, choose_device(config));
    if (!shortage.empty()) found.push_back({"a run here " + shortage, ""});
  }
  for (const std::string& text : too_much_noise(config, noise)) found.push_back({text, ""});
  for (const Doubt& doubt : found) out << "doubtful: " << doubt.text << '\n';
  if (found.empty()) out << "nothing doubtful\n";
  out.flush();
  return 0;
}

}  // namespace ptyle::driver
