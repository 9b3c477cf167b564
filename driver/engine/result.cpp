#include "driver/engine/result.h"

#include <algorithm>
#include <vector>

#include <ATen/ops/empty.h>

#include <ptyle/ops.h>

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
                  const Problem& problem) {
  hdf5::write_atomically(path, [&](hdf5::File& file) {
    file.set_attribute("/", "program", std::string("ptyle ") + version());
    file.set_attribute("/", "config", to_toml(config));
    file.set_attribute("/", "iterations", state.iteration);
    file.write("/object", state.object);
    file.set_attribute("/object", "axes", "slice, row, column");
    file.set_attribute("/object", "unit", "1 (complex transmission)");
    file.write("/probe", orthogonalised_modes(state.probe));
    file.set_attribute("/probe", "axes", "mode, row, column");
    file.set_attribute("/probe", "unit", "sqrt(counts)");
    file.write("/positions", problem.positions);
    file.set_attribute("/positions", "axes", "position, (row, column)");
    file.set_attribute(
        "/positions", "unit",
        "object pixel: the window's corner in /object, its fraction moves the probe");
    file.set_attribute("/positions", "offset",
                       std::vector<double>{problem.offset[0], problem.offset[1]});
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
  write_object_phase(folder + "/object_phase.png", state.object, region, problem.pixel_row_A);
  write_object_amplitude(folder + "/object_amplitude.png", state.object, region,
                         problem.pixel_row_A);
  write_probe(folder + "/probe.png", orthogonalised_modes(state.probe), problem.pixel_row_A);
}

}  // namespace ptyle::driver
