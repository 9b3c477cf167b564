#include "driver/engine/result.h"

#include <optional>
#include <vector>

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <ptyle/ops.h>

#include "driver/engine/vectors.h"
#include "driver/io/hdf5.h"
#include "driver/io/png.h"
#include "driver/optics/optics.h"

namespace ptyle::driver {
void write_result(const std::string& path, const State& state, const Unknowns& unknowns,
                  const Config& config, const Problem& problem, const Ranks& ranks,
                  const Remarks& remarks) {
  const auto write_unknowns = [&](hdf5::File* file) {
    for (const auto& unknown : unknowns) {
      unknown->write_result(file, state.unknowns.at(unknown->name()), ranks);
    }
  };
  if (!ranks.first()) {
    write_unknowns(nullptr);
    return;
  }
  hdf5::write_atomically(path, [&](hdf5::File& file) {
    file.set_attribute("/", "program", std::string("ptyle ") + version());
    file.set_attribute("/", "config", to_toml(config));
    file.set_attribute("/", "iterations", state.iteration);
    std::string lines;
    for (const Doubt& doubt : remarks.doubts) lines += doubt.text + "\n";
    file.set_attribute("/", "doubts", lines);
    file.set_attribute("/", "changes", state.change_lines());
    if (remarks.fit) {
      file.set_attribute("/", "amplitude_error", remarks.fit->amplitude_error);
      file.set_attribute("/", "expected_amplitude_error", remarks.fit->expected_amplitude_error);
      file.set_attribute("/", "loss_per_pixel", remarks.fit->loss);
      file.set_attribute("/", "expected_loss_per_pixel", remarks.fit->expected_loss);
    }
    write_unknowns(&file);
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
  write_probe(folder + "/probe.png",
              without_ramp(problem, orthogonalised_modes(state.probe().cpu())), pixel_A);
}

}  // namespace ptyle::driver
