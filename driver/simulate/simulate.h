// `ptyle simulate`: data sets with known truth, from published structures and optics.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/App.hpp>

#include <ATen/core/Tensor.h>

#include "driver/optics/optics.h"

namespace ptyle::driver {

// What is left out takes the specimen's default: an electron beam for a crystal, X-rays for the
// star.
struct SimulateOptions {
  std::string specimen;  // PbTiO3 | SrTiO3 | star
  std::string output;    // FILE.h5; FILE.toml is written beside it
  bool force = false;    // overwrite both

  std::optional<double> energy_keV;
  std::optional<double> semiangle_mrad;
  std::optional<double> defocus_nm;                         // underfocus positive
  double aperture_edge_mrad = -1.0;                         // negative: one sample of the window
  std::vector<std::pair<std::string, double>> aberrations;  // {"C30_nm", 1000.0}
  double source_size_nm = 0.0;  // full width at half maximum of a Gaussian source image
  int64_t modes = 1;

  int64_t window = 64;
  std::optional<double> max_angle_mrad;  // the detector's edge; sets the object's pixel
  // The patterns' zero frequency lies so many of their pixels beyond their middle.
  std::vector<double> center_offset = {0.0, 0.0};
  double oversampling = 1.5;      // of the window in which waves travel
  double band_limit = 2.0 / 3.0;  // of Nyquist in that window; 0: none

  std::optional<double> thickness_nm;
  int64_t slices = 1;
  std::string orientation = "001";
  std::string scattering_factors = "kirkland";
  int64_t phonons = 0;  // frozen-phonon configurations; 0: atoms at rest

  std::vector<int64_t> scan = {16, 16};  // positions (rows, columns)
  std::optional<double> step_nm;
  double jitter_nm = 0.0;  // each position is off by up to this, uniformly, along both axes
  double rotation_deg = 0.0;

  std::optional<double> dose_per_A2;          // electrons per square angstrom; 0: no noise
  std::optional<double> counts_per_position;  // alternatively
  std::string precision = "double";
  uint64_t seed = 0;
};

struct SimulateSummary {
  int64_t positions = 0;
  int64_t object_rows = 0;
  int64_t object_columns = 0;
  double object_pixel_nm = 0.0;
  double counts_per_position = 0.0;
  double largest_count = 0.0;
  double counts_in_window = 0.0;     // a position, on average; the rest is scattered beyond it
  double probe_power_kept = 1.0;     // by the modes, of the partially coherent probe
  double probe_power_at_edge = 0.0;  // in the outer eighth of the window
  std::string config;                // path of the config
};

// Computes and writes the data set. Throws ConfigError for a value that cannot be.
SimulateSummary simulate(const SimulateOptions& options);

// Positions of a raster in angstrom: rows x columns, turned by rotation_deg (+row towards +column),
// jittered, moved so that the smallest row and column are 0. -> [n, 2] float64 (row, column)
at::Tensor raster_positions(int64_t rows, int64_t columns, double step_A, double jitter_A,
                            double rotation_deg, uint64_t seed);

// A probe averaged over a Gaussian source image, as the `modes` strongest incoherent modes of the
// mixture, rescaled to the probe's power. power_kept: what they held of it before.
// probe [h, w] complex128 -> [modes, h, w]
at::Tensor partially_coherent_modes(const at::Tensor& probe, double pixel_A, double fwhm_A,
                                    int64_t modes, double* power_kept = nullptr);

// Adds the verb. Its callback throws the errors of driver/errors.h.
CLI::App* add_simulate_command(CLI::App& app);

}  // namespace ptyle::driver
