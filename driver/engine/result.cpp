#include "driver/engine/result.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <ptyle/ops.h>

#include "driver/engine/gather.h"
#include "driver/io/hdf5.h"
#include "driver/io/png.h"
#include "driver/optics/optics.h"

namespace ptyle::driver {
namespace {

at::Tensor as_tensor(const std::vector<double>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), tensor.data_ptr<double>());
  return tensor;
}

}  // namespace

void write_result(const std::string& path, const State& state, const Config& config,
                  const Problem& problem, const Decomposition& decomposition, const Ranks& ranks,
                  const Remarks& remarks) {
  const auto [slices, rows, columns] = problem.object_shape;
  const at::ScalarType type = state.probe.scalar_type();
  const std::vector<std::int64_t> mine = decomposition.tiles_of_rank(ranks.rank());
  const auto gather =
      [&, slices = slices](const std::function<void(const Tile&, const at::Tensor&)>& use) {
        gather_tiles(
            decomposition, ranks, Extent::kOwned, slices, type,
            [&](std::size_t k) {
              const Tile& tile = decomposition.tiles[static_cast<std::size_t>(mine[k])];
              return cut_out(state.tiles[k].object, tile.frame, tile.owned);
            },
            use);
      };
  if (!ranks.first()) {
    gather({});
    return;
  }
  hdf5::write_atomically(path, [&, slices = slices, rows = rows,
                                columns = columns](hdf5::File& file) {
    file.set_attribute("/", "program", std::string("ptyle ") + version());
    file.set_attribute("/", "config", to_toml(config));
    file.set_attribute("/", "iterations", state.iteration);
    std::string lines;
    for (const Doubt& doubt : remarks.doubts) lines += doubt.text + "\n";
    file.set_attribute("/", "doubts", lines);
    std::string changes;
    for (const std::string& line : state.changes) changes += line + "\n";
    file.set_attribute("/", "changes", changes);
    if (remarks.fit) {
      file.set_attribute("/", "amplitude_error", remarks.fit->amplitude_error);
      file.set_attribute("/", "expected_amplitude_error", remarks.fit->expected_amplitude_error);
      file.set_attribute("/", "loss_per_pixel", remarks.fit->loss);
      file.set_attribute("/", "expected_loss_per_pixel", remarks.fit->expected_loss);
    }
    file.create_dataset("/object", {slices, rows, columns}, type);
    gather([&file](const Tile& tile, const at::Tensor& tensor) {
      file.attempt([&] {
        file.write_area("/object", {0, tile.owned.row, tile.owned.column}, tensor);
      });
    });
    file.set_attribute("/object", "axes", "slice, row, column");
    file.set_attribute("/object", "row_cuts", decomposition.grid.row_cuts());
    file.set_attribute("/object", "column_cuts", decomposition.grid.column_cuts());
    file.set_attribute("/object", "unit", "1 (complex transmission)");
    file.write("/probe", without_ramp(problem, orthogonalised_modes(state.probe.cpu())));
    file.set_attribute("/probe", "axes", "mode, row, column");
    file.set_attribute("/probe", "unit", "sqrt(counts)");
    // One row for each frame of the file, also of those that took no part.
    const bool of_file = problem.file_positions.defined();
    file.write("/positions", of_file ? problem.file_positions : problem.positions);
    file.set_attribute("/positions", "axes", "position, (row, column)");
    const std::string moves = problem.moves_object() ? "the object's patch" : "the probe";
    file.set_attribute("/positions", "unit",
                       "object pixel: the window's corner in /object, its fraction moves " + moves);
    file.set_attribute("/positions", "offset",
                       std::vector<double>{problem.offset[0], problem.offset[1]});
    at::Tensor used = at::ones({problem.positions.size(0)}, at::kByte);
    if (of_file) {
      used = at::zeros({problem.file_positions.size(0)}, at::kByte);
      for (const std::int64_t frame : problem.frames) used[frame] = 1;
    }
    file.write("/used", used);
    file.set_attribute("/used", "meaning", "1: the frame took part");
    if (problem.pixel_row_A && problem.pixel_column_A) {
      const std::vector<double> pixel_nm{*problem.pixel_row_A / 10, *problem.pixel_column_A / 10};
      file.set_attribute("/object", "pixel_size_nm", pixel_nm);
      file.set_attribute("/probe", "pixel_size_nm", pixel_nm);
    }
    if (problem.wavelength_A) {
      file.set_attribute("/probe", "wavelength_pm", *problem.wavelength_A * 100);
    }
    if (problem.slice_distance_A > 0) {
      file.set_attribute("/object", "slice_distance_nm", problem.slice_distance_A / 10);
    }
    file.write("/history/loss", as_tensor(state.history.loss));
    file.write("/history/amplitude_error", as_tensor(state.history.amplitude_error));
    file.set_attribute("/history/amplitude_error", "unit",
                       "counts: mean over unmasked pixels of (sqrt(I) - sqrt(n))^2");
    file.write("/history/seconds", as_tensor(state.history.seconds));
    file.set_attribute("/history/seconds", "unit", "s");
  });
}

void write_pictures(const std::string& folder, const State& state, const Problem& problem) {
  const Region region = scanned_region(problem.positions, problem.window[0], problem.window[1],
                                       problem.object_shape[1], problem.object_shape[2]);
  const auto [slices, rows, columns] = problem.object_shape;
  const hdf5::File file = hdf5::File::open(folder + "/result.h5");
  const ObjectSlices object{slices, [&file, rows = rows, columns = columns](std::int64_t slice) {
                              return file.read_area("/object", {slice, 0, 0}, {1, rows, columns});
                            }};
  std::optional<NumberPair> pixel_A;
  if (problem.pixel_row_A && problem.pixel_column_A) {
    pixel_A = NumberPair{*problem.pixel_row_A, *problem.pixel_column_A};
  }
  write_object_phase(folder + "/object_phase.png", object, region, pixel_A);
  write_object_amplitude(folder + "/object_amplitude.png", object, region, pixel_A);
  write_probe(folder + "/probe.png", without_ramp(problem, orthogonalised_modes(state.probe.cpu())),
              pixel_A);
}

}  // namespace ptyle::driver
