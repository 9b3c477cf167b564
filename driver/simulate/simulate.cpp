#include "driver/simulate/simulate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <sstream>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/io/output.h"
#include "driver/log.h"
#include "driver/memory.h"
#include "driver/simulate/specimen.h"
#include "driver/words.h"
#include "ptyle/ops.h"

namespace ptyle::driver {
namespace {

constexpr double kAngstromPerNm = 10.0;

std::string text(double value) {
  std::ostringstream out;
  out.precision(10);
  out << value;
  return out.str();
}

[[noreturn]] void refuse(const std::string& option, const std::string& rule,
                         const std::string& value) {
  throw ConfigError("--" + option + ": must " + rule + ", got " + value);
}

void check(bool ok, const std::string& option, const std::string& rule, double value) {
  if (!ok) refuse(option, rule, text(value));
}

// Everything resolved: defaults filled in, lengths in angstrom, grids chosen.
struct Plan {
  BeamKind beam = BeamKind::kElectron;
  const Crystal* crystal = nullptr;  // null: the X-ray star
  Orientation orientation = Orientation::k001;
  ScatteringTable table = ScatteringTable::kKirkland;
  double energy_keV = 0.0;
  double wavelength_A = 0.0;
  double semiangle_mrad = 0.0;
  double defocus_nm = 0.0;
  double max_angle_mrad = 0.0;
  double thickness_A = 0.0;
  double step_A = 0.0;
  double counts_per_position = 0.0;
  double dose_per_A2 = 0.0;
  bool noisy = false;
  int64_t window = 0;       // of the patterns
  int64_t wave_window = 0;  // in which waves travel
  double pixel_A = 0.0;     // of the object as the patterns sample it
  double wave_pixel_A = 0.0;
  Aberrations<double> aberrations{};
};

Plan make_plan(const SimulateOptions& o) {
  struct Defaults {
    double energy_keV, semiangle_mrad, defocus_nm, max_angle_mrad, thickness_nm, step_nm;
  };
  constexpr Defaults kElectronDefaults = {200.0, 21.0, 20.0, 42.0, 8.0, 0.1};
  constexpr Defaults kXrayDefaults = {8.0, 2.0, 60000.0, 7.75, 500.0, 60.0};

  Plan plan;
  if (o.specimen == "PbTiO3") {
    plan.crystal = &lead_titanate();
  } else if (o.specimen == "SrTiO3") {
    plan.crystal = &strontium_titanate();
  } else if (o.specimen == "star") {
    plan.beam = BeamKind::kXray;
  } else {
    throw ConfigError("SPECIMEN: must be PbTiO3, SrTiO3 or star, got " + o.specimen);
  }
  const bool electrons = plan.beam == BeamKind::kElectron;
  const Defaults& defaults = electrons ? kElectronDefaults : kXrayDefaults;
  const auto positive = [](const std::string& option, std::optional<double> given, double other) {
    const double value = given.value_or(other);
    check(std::isfinite(value) && value > 0.0, option, "be a positive number", value);
    return value;
  };

  plan.energy_keV = positive("energy-keV", o.energy_keV, defaults.energy_keV);
  plan.wavelength_A = wavelength_A(plan.beam, plan.energy_keV);
  plan.semiangle_mrad = positive("semiangle-mrad", o.semiangle_mrad, defaults.semiangle_mrad);
  plan.max_angle_mrad = positive("max-angle-mrad", o.max_angle_mrad, defaults.max_angle_mrad);
  plan.thickness_A =
      kAngstromPerNm * positive("thickness-nm", o.thickness_nm, defaults.thickness_nm);
  plan.step_A = kAngstromPerNm * positive("step-nm", o.step_nm, defaults.step_nm);
  plan.defocus_nm = o.defocus_nm.value_or(defaults.defocus_nm);
  check(std::isfinite(plan.defocus_nm), "defocus-nm", "be a number", plan.defocus_nm);
  check(std::isfinite(o.jitter_nm) && o.jitter_nm >= 0.0, "jitter-nm", "be a number of at least 0",
        o.jitter_nm);
  check(std::isfinite(o.rotation_deg), "rotation-deg", "be a number", o.rotation_deg);
  check(std::isfinite(o.source_size_nm) && o.source_size_nm >= 0.0, "source-size-nm",
        "be a number of at least 0", o.source_size_nm);
  check(std::isfinite(o.aperture_edge_mrad), "aperture-edge-mrad", "be a number",
        o.aperture_edge_mrad);
  check(o.band_limit >= 0.0 && o.band_limit <= 1.5, "band-limit", "be from 0 to 1.5", o.band_limit);
  check(o.oversampling >= 1.0 && o.oversampling <= 8.0, "oversampling", "be from 1 to 8",
        o.oversampling);

  const auto integer = [](const std::string& option, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most) {
      refuse(option, "be from " + std::to_string(least) + " to " + std::to_string(most),
             std::to_string(value));
    }
  };
  integer("window", o.window, 8, 4096);
  if (o.window % 2 != 0) refuse("window", "be even", std::to_string(o.window));
  integer("slices", o.slices, 1, 10000);
  integer("phonons", o.phonons, 0, 10000);
  integer("modes", o.modes, 1, 49);
  if (o.scan.size() != 2) {
    refuse("scan", "be two numbers, rows and columns", std::to_string(o.scan.size()) + " numbers");
  }
  for (const int64_t n : o.scan) integer("scan", n, 1, 100000);
  constexpr int64_t kMostPositions = 10'000'000;
  if (o.scan[0] * o.scan[1] > kMostPositions) {
    refuse("scan", "be at most " + std::to_string(kMostPositions) + " positions",
           std::to_string(o.scan[0] * o.scan[1]));
  }
  if (o.center_offset.size() != 2) {
    refuse("center-offset", "be two numbers, rows and columns",
           std::to_string(o.center_offset.size()) + " numbers");
  }
  for (const double offset : o.center_offset) {
    const double most = static_cast<double>(o.window) / 8.0;
    check(std::abs(offset) <= most, "center-offset",
          "be from " + text(-most) + " to " + text(most) + " pixels", offset);
  }
  if (o.modes > 1 && o.source_size_nm == 0.0) {
    throw ConfigError("--modes: more than 1 needs --source-size-nm above 0, got --modes " +
                      std::to_string(o.modes));
  }
  if (o.precision != "single" && o.precision != "double") {
    refuse("precision", "be single or double", o.precision);
  }
  plan.orientation = parse_orientation(o.orientation);
  if (o.scattering_factors == "lobato") {
    plan.table = ScatteringTable::kLobato;
  } else if (o.scattering_factors != "kirkland") {
    refuse("scattering-factors", "be kirkland or lobato", o.scattering_factors);
  }
  if (!electrons && o.orientation != "001") {
    throw ConfigError("--orientation: is for crystals, got " + o.orientation + " for the star");
  }
  if (!electrons && (o.slices > 1 || o.phonons > 0)) {
    throw ConfigError("SPECIMEN: star is one thin slice; --slices and --phonons must be left out");
  }
  if (plan.semiangle_mrad > plan.max_angle_mrad) {
    refuse("semiangle-mrad", "be at most --max-angle-mrad " + text(plan.max_angle_mrad),
           text(plan.semiangle_mrad));
  }

  plan.window = o.window;
  plan.wave_window = std::llround(o.oversampling * static_cast<double>(o.window));
  const double exact_window = o.oversampling * static_cast<double>(o.window);
  if (std::abs(exact_window - static_cast<double>(plan.wave_window)) > 1e-9 ||
      plan.wave_window % 2 != 0) {
    refuse("oversampling", "make " + std::to_string(o.window) + " pixels an even number of pixels",
           text(o.oversampling));
  }
  // Nyquist: the largest angle is wavelength / (2 pixel).
  plan.pixel_A = plan.wavelength_A / (2e-3 * plan.max_angle_mrad);
  plan.wave_pixel_A = plan.pixel_A / o.oversampling;

  for (const auto& [name, value] : o.aberrations) {
    if (name.starts_with("C10")) {
      throw ConfigError("--aberration: C10 is given by --defocus-nm (C10 = -defocus)");
    }
    check(std::isfinite(value), "aberration " + name, "be a number", value);
    set_aberration(plan.aberrations, name, value);
  }
  plan.aberrations.C10 = -kAngstromPerNm * plan.defocus_nm;

  if (o.dose_per_A2 && o.counts_per_position) {
    throw ConfigError("--dose and --counts-per-position exclude each other, both are given");
  }
  if (o.dose_per_A2 && !electrons) {
    throw ConfigError("--dose: is for electrons; give --counts-per-position for the star");
  }
  const double area_A2 = plan.step_A * plan.step_A;
  constexpr double kNoiseFreeCounts = 1e6;
  const auto level = [](const std::string& option, double value) {
    check(std::isfinite(value) && value >= 0.0, option, "be a number of at least 0", value);
    return value;
  };
  double counts = 0.0;
  if (o.counts_per_position) {
    counts = level("counts-per-position", *o.counts_per_position);
  } else if (electrons) {
    constexpr double kDefaultDose = 1e5;
    counts = level("dose", o.dose_per_A2.value_or(kDefaultDose)) * area_A2;
  } else {
    counts = kNoiseFreeCounts;
  }
  const double most = 65535.0 * static_cast<double>(o.window * o.window);
  if (counts > most) {
    throw ConfigError(std::string(o.counts_per_position ? "--counts-per-position" : "--dose") +
                      ": must keep every count within uint16 (65535), got " + text(counts) +
                      " counts a pattern of " + std::to_string(o.window * o.window) + " pixels");
  }
  plan.noisy = counts > 0.0;
  plan.counts_per_position = plan.noisy ? counts : kNoiseFreeCounts;
  plan.dose_per_A2 = electrons && plan.noisy ? counts / area_A2 : 0.0;
  return plan;
}

// The object's grids. Waves are computed on `canvas`, which begins `margin` pixels (of the
// patterns' sampling) before the first window, so that atoms wrapped round its edges are not seen.
struct Frame {
  int64_t rows = 0, columns = 0;  // of the truth, as a reconstruction without padding sees it
  int64_t margin = 0;
  int64_t coarse_rows = 0, coarse_columns = 0;  // the canvas in the patterns' sampling
  Canvas canvas{};
};

bool has_small_factors(int64_t n) {
  for (const int64_t factor : {2, 3, 5, 7}) {
    while (n % factor == 0) n /= factor;
  }
  return n == 1;
}

Frame make_frame(const Plan& plan, double oversampling, const at::Tensor& positions) {
  constexpr double kMarginA = 5.0;
  const auto fine = [&](int64_t coarse) {  // 0 if not a whole number
    const double exact = oversampling * static_cast<double>(coarse);
    const int64_t rounded = std::llround(exact);
    return std::abs(exact - static_cast<double>(rounded)) < 1e-9 ? rounded : int64_t{0};
  };
  const bool crystal = plan.crystal != nullptr;
  Frame frame;
  frame.margin = crystal ? static_cast<int64_t>(std::ceil(kMarginA / plan.pixel_A)) : 1;
  while (fine(frame.margin) == 0) ++frame.margin;
  const auto extent = [&](int64_t axis) {
    const double last = positions.select(1, axis).max().item<double>();
    constexpr double kLargestSide = 1e5;
    if (!(last < kLargestSide)) {
      refuse("step-nm",
             "keep the object below 100000 pixels of " + text(0.1 * plan.pixel_A) + " nm a side",
             text(0.1 * plan.step_A));
    }
    return static_cast<int64_t>(std::floor(last)) + plan.window + 1;
  };
  const auto padded = [&](int64_t length) {
    int64_t coarse = length + 2 * frame.margin;
    coarse += coarse % 2;
    while (fine(coarse) == 0 || fine(coarse) % 2 != 0 || !has_small_factors(fine(coarse))) {
      coarse += 2;
    }
    return coarse;
  };
  frame.rows = extent(0);
  frame.columns = extent(1);
  frame.coarse_rows = padded(frame.rows);
  frame.coarse_columns = padded(frame.columns);
  frame.canvas = {fine(frame.coarse_rows), fine(frame.coarse_columns), plan.wave_pixel_A};
  return frame;
}

// Before minutes are spent on what cannot end well.
void refuse_too_much_memory(const Plan& plan, const SimulateOptions& o, const Frame& frame) {
  const double pixels = static_cast<double>(frame.canvas.rows * frame.canvas.columns);
  const double configurations = static_cast<double>(std::max<int64_t>(o.phonons, 1));
  const double element = o.precision == "single" ? 8.0 : 16.0;
  // The potential, the transmission and their mean in double; every configuration in the end.
  double needed = pixels * static_cast<double>(o.slices) * (40.0 + element * configurations);
  double atoms = 0.0;
  if (plan.crystal != nullptr) {
    constexpr double kAtomsPerA3 = 0.085;  // of the perovskites here
    atoms = kAtomsPerA3 * pixels * plan.wave_pixel_A * plan.wave_pixel_A * plan.thickness_A;
    needed += atoms * 2.0 * sizeof(Atom);
  }
  const auto available = static_cast<double>(available_bytes());
  if (needed > available) {
    throw ConfigError("the simulation must fit into the memory that is free, " +
                      gigabytes(available) + ", got a need of about " + gigabytes(needed) +
                      " (--scan, --step-nm, --window, --slices, --phonons, --thickness-nm)");
  }
  constexpr double kMostAtoms = 2e7;  // tens of minutes
  if (atoms > kMostAtoms) {
    throw ConfigError("--thickness-nm: must leave at most 2e7 atoms in the simulated slab, got " +
                      text(0.1 * plan.thickness_A) + " nm with about " + text(atoms) + " atoms");
  }
}

struct Specimen {
  std::vector<at::Tensor> configurations;  // [slices, rows, columns] complex, on the canvas
  at::Tensor mean;                         // their mean, on the canvas, complex128
  at::Tensor phase;                        // summed, mean over configurations, on the canvas
};

Specimen make_specimen(const Plan& plan, const SimulateOptions& o, const Canvas& canvas,
                       at::ScalarType type) {
  Specimen specimen;
  if (plan.crystal == nullptr) {
    const at::Tensor thickness = star_pattern(canvas) * plan.thickness_A;
    const RefractiveIndex index = gold(plan.energy_keV);
    specimen.mean = band_limited(xray_transmission(thickness, plan.wavelength_A, index),
                                 o.band_limit, canvas.pixel_A);
    specimen.phase = thickness * (-2.0 * kPi<double> / plan.wavelength_A * index.delta);
    specimen.configurations.push_back(specimen.mean.to(type));
    return specimen;
  }
  const std::vector<Atom> atoms = crystal_slab(
      *plan.crystal, plan.orientation, static_cast<double>(canvas.rows) * canvas.pixel_A,
      static_cast<double>(canvas.columns) * canvas.pixel_A, plan.thickness_A);
  const double sigma = interaction_constant_rad_per_VA(plan.energy_keV);
  const int64_t count = std::max<int64_t>(o.phonons, 1);
  log_info() << plan.crystal->name << ": " << atoms.size() << " atoms in "
             << words::counted(o.slices, "slice") << " of " << canvas.rows << " x "
             << canvas.columns << " pixels, "
             << (o.phonons == 0 ? std::string("at rest")
                                : words::counted(count, "frozen-phonon configuration"));
  for (int64_t n = 0; n < count; ++n) {
    // Streams of their own: seed + 1 + n for the atoms, as the scan and the counts have theirs.
    const std::vector<Atom> placed =
        o.phonons == 0 ? atoms : displaced(atoms, o.seed + 1 + static_cast<uint64_t>(n));
    const at::Tensor potential =
        projected_potential(placed, canvas, plan.thickness_A, o.slices, o.band_limit, plan.table);
    const at::Tensor object = transmission(potential, sigma, o.band_limit, canvas.pixel_A);
    const at::Tensor phase = potential.sum(0) * sigma;
    specimen.mean = n == 0 ? object : specimen.mean + object;
    specimen.phase = n == 0 ? phase : specimen.phase + phase;
    specimen.configurations.push_back(object.to(type).contiguous());
  }
  specimen.mean = specimen.mean / static_cast<double>(count);
  specimen.phase = specimen.phase / static_cast<double>(count);
  return specimen;
}

// Counts drawn from a Poisson distribution, one stream in the order of positions and pixels, so
// that the size of a chunk does not matter. expected [n, h, w] float64 -> the same, uint16
class CountDrawer {
 public:
  explicit CountDrawer(uint64_t seed) : generator_(seed) {}

  at::Tensor draw(const at::Tensor& expected) {
    at::Tensor counts = at::empty(expected.sizes(), at::kUInt16);
    const at::Tensor contiguous = expected.contiguous();
    const double* in = contiguous.const_data_ptr<double>();
    auto* out = static_cast<uint16_t*>(counts.data_ptr());
    constexpr auto kMost = std::numeric_limits<uint16_t>::max();
    for (int64_t i = 0; i < expected.numel(); ++i) {
      constexpr double kHopeless = 1e6;  // and slow to draw
      const int64_t count = in[i] > kHopeless ? static_cast<int64_t>(kHopeless)
                            : in[i] > 0.0 ? std::poisson_distribution<int64_t>(in[i])(generator_)
                                          : int64_t{0};
      if (count > kMost) {
        throw ConfigError("--dose: must keep every count within uint16 (65535), got a pixel with " +
                          std::to_string(count) + " counts");
      }
      out[i] = static_cast<uint16_t>(count);
    }
    return counts;
  }

 private:
  std::mt19937_64 generator_;
};

std::string config_path(const std::string& output) {
  return std::filesystem::path(output).replace_extension(".toml").string();
}

// A TOML string.
std::string quoted(const std::string& value) {
  std::string result = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + '"';
}

std::string config_text(const Plan& plan, const SimulateOptions& o) {
  const std::filesystem::path output(o.output);
  const std::string name = output.filename().string();
  std::ostringstream out;
  out.precision(12);
  out << "# Written by `ptyle simulate` beside " << name << ": ready for `ptyle run`.\n"
      << "[data]\nfile = " << quoted(name) << "\n"
      << "patterns = \"data\"\npositions = \"positions\"\nposition_unit = \"pixel\"\n"
      << "zero_frequency = \"center\"\n\n"
      << "[detector]\nobject_pixel_nm = " << plan.pixel_A / kAngstromPerNm << "\n";
  if (o.center_offset[0] != 0.0 || o.center_offset[1] != 0.0) {
    const auto middle = static_cast<double>(o.window / 2);
    out << "center = [" << middle + o.center_offset[0] << ", " << middle + o.center_offset[1]
        << "]\n";
  }
  out << "\n"
      << "[beam]\nkind = \"" << (plan.beam == BeamKind::kElectron ? "electron" : "xray")
      << "\"\nenergy_keV = " << plan.energy_keV << "\n\n"
      << "[probe]\nfile = " << quoted(name) << "\ndataset = \"probe\"\nmodes = " << o.modes
      << "\npower = \"data\"\n\n"
      << "[object]\nslices = " << o.slices
      << "\nthickness_nm = " << plan.thickness_A / kAngstromPerNm << "\n\n"
      << "[reconstruct]\niterations = 50\n"
      << "refine = [\"object\", \"probe\"]\n\n"
      << "[output]\nfolder = " << quoted(output.stem().string()) << "\n";
  return out.str();
}

void write_attributes(hdf5::File& file, const Plan& plan, const SimulateOptions& o) {
  const auto set = [&](const char* name, const auto& value) {
    file.set_attribute("/", name, value);
  };
  const bool electrons = plan.beam == BeamKind::kElectron;
  set("specimen", o.specimen);
  if (plan.crystal != nullptr) {
    set("structure_reference", std::string(plan.crystal->reference));
    set("orientation", o.orientation);
    set("scattering_factors", o.scattering_factors);
    set("interaction_constant_rad_per_VA", interaction_constant_rad_per_VA(plan.energy_keV));
  }
  set("beam", electrons ? "electron" : "xray");
  set("energy_keV", plan.energy_keV);
  set("wavelength_A", plan.wavelength_A);
  set("semiangle_mrad", plan.semiangle_mrad);
  set("max_angle_mrad", plan.max_angle_mrad);
  set("defocus_nm", plan.defocus_nm);
  for (const auto& [name, value] : o.aberrations) file.set_attribute("/", name, value);
  set("source_size_nm", o.source_size_nm);
  set("object_pixel_nm", plan.pixel_A / kAngstromPerNm);
  set("oversampling", o.oversampling);
  set("band_limit_of_nyquist", o.band_limit);
  set("thickness_nm", plan.thickness_A / kAngstromPerNm);
  set("slices", o.slices);
  set("phonon_configurations", o.phonons);
  set("scan_shape", o.scan);
  set("step_nm", plan.step_A / kAngstromPerNm);
  set("jitter_nm", o.jitter_nm);
  set("rotation_deg", o.rotation_deg);
  set("center_offset", o.center_offset);
  set("noise", plan.noisy ? "poisson" : "none");
  set("counts_per_position", plan.counts_per_position);
  if (electrons) set("dose_e_per_A2", plan.dose_per_A2);
  set("seed", static_cast<int64_t>(o.seed));
}

double power_at_edge(const at::Tensor& probe) {
  const int64_t rows = probe.size(-2);
  const int64_t columns = probe.size(-1);
  const at::Tensor intensity = probe.abs().square().sum(0);
  const at::Tensor inner = intensity.narrow(0, rows / 8, rows - 2 * (rows / 8))
                               .narrow(1, columns / 8, columns - 2 * (columns / 8));
  return 1.0 - (inner.sum() / intensity.sum()).item<double>();
}

}  // namespace

SimulateSummary simulate(const SimulateOptions& o) {
  const at::NoGradGuard no_grad;
  const Plan plan = make_plan(o);
  if (o.output.empty()) throw ConfigError("-o: must name the file to write, FILE.h5");
  const std::string config = config_path(o.output);
  if (config == o.output) throw ConfigError("-o: must not end in .toml, got " + o.output);
  for (const std::string& path : {o.output, config}) {
    if (!o.force && std::filesystem::exists(path)) {
      throw ConfigError(path + ": exists already; --force overwrites it");
    }
  }
  if (std::filesystem::path(o.output).stem() == std::filesystem::path(o.output).filename()) {
    throw ConfigError(
        "-o: must end in .h5 or another suffix (the folder of `ptyle run` takes the "
        "name without it), got " +
        o.output);
  }
  const std::filesystem::path folder = std::filesystem::path(o.output).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder)) {
    throw ConfigError("-o: must lie in an existing folder, got " + o.output);
  }

  SimulateSummary summary;
  summary.config = config;
  summary.object_pixel_nm = plan.pixel_A / kAngstromPerNm;
  summary.counts_per_position = plan.counts_per_position;
  const auto type = o.precision == "single" ? at::kComplexFloat : at::kComplexDouble;

  const at::Tensor positions =
      raster_positions(o.scan[0], o.scan[1], plan.step_A, kAngstromPerNm * o.jitter_nm,
                       o.rotation_deg, o.seed) /
      plan.pixel_A;
  const Frame frame = make_frame(plan, o.oversampling, positions);
  refuse_too_much_memory(plan, o, frame);
  const at::Tensor wave_positions =
      (positions + static_cast<double>(frame.margin)) * o.oversampling;
  summary.positions = positions.size(0);
  summary.object_rows = frame.rows;
  summary.object_columns = frame.columns;

  ProbeOptics optics;
  optics.wavelength_A = plan.wavelength_A;
  optics.semiangle_mrad = plan.semiangle_mrad;
  optics.aperture_edge_mrad = o.aperture_edge_mrad;
  optics.aberrations = plan.aberrations;
  optics.band_limit = o.band_limit;
  at::Tensor probe = aberrated_probe(plan.wave_window, plan.wave_window, plan.wave_pixel_A,
                                     plan.wave_pixel_A, optics);
  probe = o.source_size_nm > 0.0 ? partially_coherent_modes(probe, plan.wave_pixel_A,
                                                            kAngstromPerNm * o.source_size_nm,
                                                            o.modes, &summary.probe_power_kept)
                                 : probe.unsqueeze(0);
  probe = probe * std::sqrt(plan.counts_per_position);
  summary.probe_power_at_edge = power_at_edge(probe);
  // The same wave on fewer samples: values grow, the power stays.
  const at::Tensor stored_probe = fourier_cropped(probe, plan.window, plan.window) * o.oversampling;

  const Specimen specimen = make_specimen(plan, o, frame.canvas, type);
  const std::array<double, 2> offset = {o.center_offset[0], o.center_offset[1]};
  std::optional<at::Tensor> propagator;
  if (o.slices > 1) {
    propagator = fresnel_propagator(plan.wave_window, plan.wave_window, plan.wave_pixel_A,
                                    plan.wave_pixel_A, plan.wavelength_A,
                                    plan.thickness_A / static_cast<double>(o.slices), offset);
    if (o.band_limit > 0.0) {
      propagator->mul_(band_limit_mask(plan.wave_window, plan.wave_window, plan.wave_pixel_A,
                                       plan.wave_pixel_A, o.band_limit, offset));
    }
    propagator = propagator->to(type);
  }
  // Moves the patterns; a sample of the wave's window is a pixel of the detector.
  const at::Tensor wave_probe =
      (probe * frequency_ramp(plan.wave_window, plan.wave_window, offset)).to(type).contiguous();

  const int64_t window = plan.window;
  const int64_t first = plan.wave_window / 2 - window / 2;
  const auto patterns_of = [&](const at::Tensor& where) {
    at::Tensor sum;
    for (const at::Tensor& object : specimen.configurations) {
      const at::Tensor intensity = diffraction(object, wave_probe, where, propagator);
      sum = sum.defined() ? sum.add_(intensity) : intensity.to(at::kDouble, false, /*copy=*/true);
    }
    sum.div_(static_cast<double>(specimen.configurations.size()));
    return at::fft_fftshift(sum, at::IntArrayRef{1, 2})
        .narrow(1, first, window)
        .narrow(2, first, window)
        .contiguous();
  };
  constexpr int64_t kChunkBytes = int64_t{1} << 26;
  const int64_t bytes_of_position = 16 * plan.wave_window * plan.wave_window * (o.modes + 2);
  const int64_t chunk = std::clamp<int64_t>(kChunkBytes / bytes_of_position, 1, summary.positions);

  const auto truth_of = [&](const at::Tensor& image) {
    return fourier_cropped(image, frame.coarse_rows, frame.coarse_columns)
        .narrow(-2, frame.margin, frame.rows)
        .narrow(-1, frame.margin, frame.columns)
        .contiguous();
  };

  log_info() << words::counted(summary.positions, "position") << ", window " << plan.wave_window
             << " x " << plan.wave_window << " pixels of " << plan.wave_pixel_A << " A";
  hdf5::write_atomically(o.output, [&](hdf5::File& file) {
    CountDrawer drawer(o.seed);
    const at::ScalarType stored = plan.noisy ? at::kUInt16 : at::kFloat;
    file.create_dataset("/data", {summary.positions, window, window}, stored);
    for (int64_t start = 0; start < summary.positions; start += chunk) {
      const int64_t n = std::min(chunk, summary.positions - start);
      const at::Tensor expected = patterns_of(wave_positions.narrow(0, start, n));
      const at::Tensor patterns = plan.noisy ? drawer.draw(expected) : expected.to(at::kFloat);
      // uint16 has no max in ATen.
      const double most =
          plan.noisy ? patterns.to(at::kInt).max().item<double>() : expected.max().item<double>();
      summary.largest_count = std::max(summary.largest_count, most);
      summary.counts_in_window +=
          expected.sum().item<double>() / static_cast<double>(summary.positions);
      file.write_rows("/data", start, patterns);
      file.require();  // not after the hours that the rest may take
    }
    file.write("/positions", positions);
    file.write("/probe", stored_probe.to(at::kComplexFloat).contiguous());
    file.write("/truth/object", truth_of(specimen.mean).to(at::kComplexFloat));
    file.write("/truth/phase", truth_of(specimen.phase).to(at::kFloat));
    write_attributes(file, plan, o);
    file.set_attribute("/data", "unit", "counts");
    file.set_attribute("/data", "zero_frequency", "center");
    file.set_attribute("/data", "pixel_mrad",
                       2.0 * plan.max_angle_mrad / static_cast<double>(window));
    file.set_attribute("/positions", "unit", "pixel");
    file.set_attribute("/positions", "meaning",
                       "row and column of the window's first pixel in /truth");
    file.set_attribute("/probe", "pixel_nm", summary.object_pixel_nm);
    file.set_attribute("/truth/object", "pixel_nm", summary.object_pixel_nm);
    file.set_attribute("/truth/object", "slice_thickness_nm",
                       plan.thickness_A / kAngstromPerNm / static_cast<double>(o.slices));
    file.set_attribute("/truth/phase", "unit", "rad");
    file.set_attribute("/truth/phase", "pixel_nm", summary.object_pixel_nm);
  });
  replace_file(config, config_text(plan, o));
  return summary;
}

namespace {

// "C30_nm=1000" -> {"C30_nm", 1000}
std::pair<std::string, double> parse_assignment(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  const std::string value =
      equals == std::string::npos ? std::string() : assignment.substr(equals + 1);
  size_t used = 0;
  double number = 0.0;
  try {
    number = std::stod(value, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != value.size()) {
    refuse("aberration", "be NAME=VALUE, for instance C30_nm=1000", assignment);
  }
  return {assignment.substr(0, equals), number};
}

void report(const SimulateOptions& o, const SimulateSummary& s) {
  if (s.probe_power_at_edge > 0.01) {
    log_warning() << text(100.0 * s.probe_power_at_edge)
                  << " % of the probe's power lies in the outer eighth of the window: a larger "
                     "--window or less --defocus-nm would keep its tails apart";
  }
  if (s.probe_power_kept < 0.99) {
    log_warning() << words::counted(o.modes, "mode") << (o.modes == 1 ? " holds " : " hold ")
                  << text(100.0 * s.probe_power_kept) << " % of the partially coherent probe";
  }
  std::printf(
      "%s: %lld patterns of %lld x %lld, %.4g counts each (%.4g within the window), brightest "
      "pixel %.6g; object %lld x "
      "%lld pixels of %.5g nm\n%s: its config, for `ptyle run`\n",
      o.output.c_str(), static_cast<long long>(s.positions), static_cast<long long>(o.window),
      static_cast<long long>(o.window), s.counts_per_position, s.counts_in_window, s.largest_count,
      static_cast<long long>(s.object_rows), static_cast<long long>(s.object_columns),
      s.object_pixel_nm, s.config.c_str());
}

}  // namespace

CLI::App* add_simulate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "simulate",
      "Make a data set with known truth: a crystal under electrons, a star under X-rays");
  struct Arguments {
    SimulateOptions options;
    std::vector<std::string> aberrations;
  };
  const auto arguments = std::make_shared<Arguments>();
  SimulateOptions& o = arguments->options;

  command->add_option("SPECIMEN", o.specimen, "PbTiO3, SrTiO3 (electrons) or star (gold, X-rays)")
      ->required();
  command->add_option("-o,--output", o.output, "FILE.h5 to write; FILE.toml goes beside it")
      ->required();
  command->add_flag("--force", o.force, "overwrite existing files");

  const std::string beam = "Beam";
  command->add_option("--energy-keV", o.energy_keV, "energy [electrons 200, X-rays 8]")
      ->group(beam);
  command->add_option("--semiangle-mrad", o.semiangle_mrad, "of the aperture [21; 2]")->group(beam);
  command
      ->add_option("--defocus-nm", o.defocus_nm,
                   "underfocus positive, in focus that far downstream [20; 60000]")
      ->group(beam);
  command
      ->add_option("--aberration", arguments->aberrations,
                   "NAME=VALUE in Krivanek's notation: C30_nm=1000, C12_nm=2, phi12_deg=30; may "
                   "be repeated")
      ->group(beam);
  command
      ->add_option("--aperture-edge-mrad", o.aperture_edge_mrad,
                   "width of the aperture's soft edge; 0 sharp [one sample]")
      ->group(beam);
  command
      ->add_option("--source-size-nm", o.source_size_nm,
                   "full width at half maximum of the source's image, 0 coherent")
      ->group(beam)
      ->capture_default_str();
  command->add_option("--modes", o.modes, "incoherent modes that describe it")
      ->group(beam)
      ->capture_default_str();

  const std::string specimen = "Specimen";
  command->add_option("--thickness-nm", o.thickness_nm, "[8; 500]")->group(specimen);
  command->add_option("--slices", o.slices, "of equal thickness")
      ->group(specimen)
      ->capture_default_str();
  command->add_option("--orientation", o.orientation, "axis along the beam, 001 or 100")
      ->group(specimen)
      ->capture_default_str();
  command
      ->add_option("--phonons", o.phonons,
                   "frozen-phonon configurations to average, 0 leaves the atoms at rest")
      ->group(specimen)
      ->capture_default_str();
  command->add_option("--scattering-factors", o.scattering_factors, "kirkland or lobato")
      ->group(specimen)
      ->capture_default_str();

  const std::string sampling = "Scan and detector";
  command->add_option("--scan", o.scan, "positions: rows and columns")
      ->expected(2)
      ->group(sampling)
      ->capture_default_str();
  command->add_option("--step-nm", o.step_nm, "[0.1; 60]")->group(sampling);
  command->add_option("--jitter-nm", o.jitter_nm, "positions are off by up to this, uniformly")
      ->group(sampling)
      ->capture_default_str();
  command->add_option("--rotation-deg", o.rotation_deg, "of the raster, +row towards +column")
      ->group(sampling)
      ->capture_default_str();
  command->add_option("--window", o.window, "pixels of a pattern along each side")
      ->group(sampling)
      ->capture_default_str();
  command->add_option("--max-angle-mrad", o.max_angle_mrad, "the detector's edge [42; 7.75]")
      ->group(sampling);
  command
      ->add_option("--center-offset", o.center_offset,
                   "the patterns' zero frequency lies so many pixels (rows, columns) beyond their "
                   "middle")
      ->expected(2)
      ->group(sampling)
      ->capture_default_str();
  command
      ->add_option("--oversampling", o.oversampling,
                   "waves travel in a window so many times finer than the patterns need")
      ->group(sampling)
      ->capture_default_str();
  command
      ->add_option("--band-limit", o.band_limit, "of that window's Nyquist frequency, 0 for none")
      ->group(sampling)
      ->capture_default_str();

  const std::string noise = "Noise";
  command
      ->add_option("--dose", o.dose_per_A2,
                   "electrons per square angstrom; 0 gives unrounded patterns without noise "
                   "[100000]")
      ->group(noise);
  command->add_option("--counts-per-position", o.counts_per_position, "instead [X-rays 1e6]")
      ->group(noise);
  command->add_option("--seed", o.seed, "of phonons, jitter and counts")
      ->check(CLI::NonNegativeNumber)
      ->group(noise)
      ->capture_default_str();
  command->add_option("--precision", o.precision, "single or double")
      ->group(noise)
      ->capture_default_str();

  command->footer(
      "Example: a lead titanate film of 8 nm in 20 slices, 1e5 electrons per square angstrom\n"
      "  ptyle simulate PbTiO3 --slices 20 --scan 24 24 --dose 1e5 -o pto.h5\n"
      "  ptyle run pto.toml");
  command->callback([arguments] {
    for (const std::string& assignment : arguments->aberrations) {
      arguments->options.aberrations.push_back(parse_assignment(assignment));
    }
    report(arguments->options, simulate(arguments->options));
  });
  return command;
}

}  // namespace ptyle::driver
