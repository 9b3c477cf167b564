// `ptyle simulate` and the optics under it, against textbooks, other programs and themselves.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "csrc/optics.h"
#include "driver/config/config.h"
#include "driver/errors.h"
#include "driver/io/hdf5.h"
#include "driver/optics/optics.h"
#include "driver/simulate/crystals.h"
#include "driver/simulate/scattering_factors.h"
#include "driver/simulate/simulate.h"
#include "driver/simulate/specimen.h"
#include "ptyle/ops.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;

// The folder of shared test data, or empty: $PTYLE_DATA, or shared/data beside any folder above.
std::string data_folder() {
  if (const char* given = std::getenv("PTYLE_DATA")) {
    return fs::is_directory(given) ? std::string(given) : std::string();
  }
  for (fs::path above = fs::current_path(); above != above.root_path();
       above = above.parent_path()) {
    if (fs::is_directory(above / "shared/data")) return (above / "shared/data").string();
  }
  return {};
}

at::Tensor propagated(const at::Tensor& wave, const at::Tensor& propagator) {
  return at::fft_ifft2(at::fft_fft2(wave) * propagator);
}

at::Tensor intensity(const at::Tensor& wave) { return wave.abs().square(); }

// A folder of its own for each test, removed at the end.
class SimulatedFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "ptyle_simulate_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  SimulateOptions small(const std::string& specimen, const std::string& file) const {
    SimulateOptions options;
    options.specimen = specimen;
    options.output = (folder_ / file).string();
    options.window = 32;
    options.scan = {3, 4};
    options.defocus_nm = specimen == "star" ? 20000.0 : 5.0;
    return options;
  }

  fs::path folder_;
};

TEST(ScatteringFactors, AreThoseOfTheirPublications) {
  EXPECT_EQ(kKirklandTable[0].symbol, "H");
  EXPECT_EQ(kKirklandTable[81].symbol, "Pb");
  EXPECT_EQ(kKirklandTable[102].symbol, "Lr");
  EXPECT_EQ(kLobatoTable[21].symbol, "Ti");
  // The Mott-Bethe limit: f_e -> Z / (2 pi^2 a0 q^2) at large q.
  const double q2 = 144.0;
  for (const int z : {8, 22, 38, 82}) {
    const double limit = z / (2.0 * kPi<double> * kPi<double> * kBohrRadiusA * q2);
    EXPECT_NEAR(electron_scattering_factor_A(ScatteringTable::kLobato, z, q2) / limit, 1.0, 0.06)
        << z;
    EXPECT_NEAR(electron_scattering_factor_A(ScatteringTable::kKirkland, z, q2) / limit, 1.0, 0.06)
        << z;
  }
}

TEST(ScatteringFactors, TwoIndependentFitsAgreeForEveryElement) {
  for (int z = 1; z <= kElementCount; ++z) {
    for (const double q : {0.3, 1.0, 2.0, 4.0}) {
      const double kirkland = electron_scattering_factor_A(ScatteringTable::kKirkland, z, q * q);
      const double lobato = electron_scattering_factor_A(ScatteringTable::kLobato, z, q * q);
      EXPECT_NEAR(kirkland / lobato, 1.0, 0.06) << "Z = " << z << ", q = " << q;
    }
  }
}

TEST(ScatteringFactors, AreThoseOfTheSharedTable) {
  const std::string folder = data_folder();
  if (folder.empty()) GTEST_SKIP() << "no shared data: set PTYLE_DATA";
  std::ifstream file(folder + "/scattering-factors/kirkland.csv");
  std::string line;
  int elements = 0;
  while (std::getline(file, line)) {
    if (line.empty() || std::isdigit(static_cast<unsigned char>(line[0])) == 0) continue;
    std::stringstream fields(line);
    std::string field;
    std::getline(fields, field, ',');
    const auto index = static_cast<size_t>(std::stoi(field)) - 1;
    std::getline(fields, field, ',');
    EXPECT_EQ(field, kKirklandTable[index].symbol);
    for (const double value : kKirklandTable[index].values) {
      std::getline(fields, field, ',');
      EXPECT_DOUBLE_EQ(std::stod(field), value) << "Z = " << index + 1;
    }
    ++elements;
  }
  EXPECT_EQ(elements, kElementCount);
}

TEST(Crystals, LeadTitanateHasItsCompositionAndItsBondLengths) {
  const Crystal& crystal = lead_titanate();
  const std::vector<Atom> atoms = crystal_slab(crystal, Orientation::k001, 2.0 * crystal.b_A,
                                               3.0 * crystal.a_A, 4.0 * crystal.c_A);
  std::map<int, int> counts;
  for (const Atom& atom : atoms) ++counts[atom.atomic_number];
  EXPECT_EQ(counts[82], 24);
  EXPECT_EQ(counts[22], 24);
  EXPECT_EQ(counts[8], 72);
  // Titanium lies off the middle of its octahedron along the polar axis: one short, four medium,
  // one long bond.
  const auto z = [&](size_t site) { return crystal.sites[site].c * crystal.c_A; };
  const double titanium = z(1);
  const double axial = z(4);
  const double in_plane = z(2);
  EXPECT_NEAR(crystal.c_A - titanium + axial, 2.5049, 1e-4);
  EXPECT_NEAR(titanium - axial, 1.6299, 1e-4);
  EXPECT_NEAR(std::hypot(0.5 * crystal.a_A, in_plane - titanium), 1.9833, 1e-4);
}

TEST(Crystals, AWholeNumberOfCellsHasAWholeNumberOfAtomsInEitherOrientation) {
  const Crystal& crystal = lead_titanate();
  for (const Orientation orientation : {Orientation::k001, Orientation::k100}) {
    const CellLengths cell = cell_lengths(crystal, orientation);
    const auto atoms = crystal_slab(crystal, orientation, 3.0 * cell.row_A, 3.0 * cell.column_A,
                                    3.0 * cell.depth_A);
    EXPECT_EQ(atoms.size(), 135u);
  }
  EXPECT_NEAR(cell_lengths(crystal, Orientation::k100).column_A, crystal.c_A, 1e-12);
}

TEST(Crystals, StrontiumTitanateIsCubicPerovskite) {
  const Crystal& crystal = strontium_titanate();
  EXPECT_EQ(crystal.sites.size(), 5u);
  EXPECT_EQ(crystal.a_A, 3.905);
  EXPECT_EQ(crystal.a_A, crystal.c_A);
}

TEST(Crystals, FrozenPhononsHaveThePublishedAmplitudeAndAreReproducible) {
  const auto atoms = crystal_slab(lead_titanate(), Orientation::k001, 60.0, 60.0, 60.0);
  const auto moved = displaced(atoms, 7);
  double sum = 0.0;
  int64_t n = 0;
  for (size_t i = 0; i < atoms.size(); ++i) {
    if (atoms[i].atomic_number != 82) continue;
    sum += std::pow(moved[i].row_A - atoms[i].row_A, 2) +
           std::pow(moved[i].column_A - atoms[i].column_A, 2) +
           std::pow(moved[i].depth_A - atoms[i].depth_A, 2);
    n += 3;
  }
  EXPECT_NEAR(std::sqrt(sum / static_cast<double>(n)), std::sqrt(0.53 / 8.0) / kPi<double>, 0.003);
  EXPECT_EQ(displaced(atoms, 7)[5].row_A, moved[5].row_A);
  EXPECT_NE(displaced(atoms, 8)[5].row_A, moved[5].row_A);
}

TEST(ProjectedPotential, EqualsTheSumOfBesselAndGaussianTermsInRealSpace) {
  // Off the grid by fractions of a pixel, one atom across the periodic edge.
  const std::vector<Atom> atoms = {{82, 6.013, 7.377, 0.5, 0.0}, {8, 0.21, 9.18, 1.5, 0.0}};
  const double pixel = 0.02;
  const Canvas canvas{500, 512, pixel};
  const at::Tensor potential = projected_potential(atoms, canvas, 2.0, 2, 0.0);
  ASSERT_EQ(potential.sizes(), at::IntArrayRef({2, 500, 512}));
  for (size_t slice = 0; slice < 2; ++slice) {
    const Atom& atom = atoms[slice];
    for (const auto& [row, column] :
         std::vector<std::pair<int64_t, int64_t>>{{325, 367}, {285, 400}, {15, 430}, {490, 470}}) {
      double expected = 0.0;  // with the neighbouring periods
      for (int i = -2; i <= 2; ++i) {
        for (int j = -2; j <= 2; ++j) {
          const double dy = pixel * static_cast<double>(row) - atom.row_A + 500.0 * pixel * i;
          const double dx = pixel * static_cast<double>(column) - atom.column_A + 512.0 * pixel * j;
          expected += kirkland_projected_potential_VA(atom.atomic_number, std::hypot(dy, dx));
        }
      }
      const double value = potential[static_cast<int64_t>(slice)][row][column].item<double>();
      // The grid ends at 25 / A, where atoms still scatter: ripples of some tenths of a volt
      // angstrom, in proportion to the atomic number.
      EXPECT_NEAR(value, expected, 0.01 * expected + 0.02 * atom.atomic_number)
          << row << ", " << column;
    }
  }
}

TEST(ProjectedPotential, AnAtomIsInTheSliceOfItsDepth) {
  const std::vector<Atom> atoms = {{8, 2.0, 2.0, 0.0, 0.0},
                                   {8, 2.0, 2.0, 1.0, 0.0},
                                   {8, 2.0, 2.0, 2.0, 0.0},
                                   {8, 2.0, 2.0, -0.1, 0.0}};
  const at::Tensor sums = projected_potential(atoms, {40, 40, 0.1}, 3.0, 3, 0.0).sum({1, 2});
  EXPECT_NEAR((sums[0] / sums[2]).item<double>(), 2.0, 1e-9);
  EXPECT_NEAR((sums[1] / sums[2]).item<double>(), 1.0, 1e-9);
}

// Kirkland 2010, figure 5.12: C, Si, Cu, Au and U atoms in a bright-field image.
std::pair<double, double> range_of_kirklands_image(double underfocus_A) {
  std::vector<Atom> atoms;
  double column = 5.0;
  for (const int z : {6, 14, 29, 79, 92}) {
    atoms.push_back({z, 25.0, column, 0.0, 0.0});
    column += 10.0;
  }
  const int64_t n = 512;
  const double pixel = 50.0 / 512.0;
  const double wavelength = electron_wavelength_A(200.0);
  const double limit = 2.0 / 3.0;
  const at::Tensor potential = projected_potential(atoms, {n, n, pixel}, 1.0, 1, limit);
  const at::Tensor wave =
      transmission(potential, interaction_constant_rad_per_VA(200.0), limit, pixel)[0];
  Aberrations<double> aberrations{};
  aberrations.C10 = -underfocus_A;
  aberrations.C30 = 1.3e7;
  at::Tensor lens = at::empty({n, n}, at::kComplexDouble);
  const at::Tensor k = frequencies(n, pixel);
  const auto k_at = k.accessor<double, 1>();
  auto lens_at = lens.accessor<c10::complex<double>, 2>();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double angle = wavelength * std::hypot(k_at[i], k_at[j]);
      const Complex<double> phasor =
          unit_phasor(-aberration_phase(k_at[i], k_at[j], wavelength, aberrations));
      lens_at[i][j] =
          soft_aperture(angle, 10.37e-3, 0.0) * c10::complex<double>(phasor.re, phasor.im);
    }
  }
  const at::Tensor image = intensity(propagated(wave, lens));
  return {image.min().item<double>(), image.max().item<double>()};
}

TEST(Optics, KirklandsFigure512HasItsPublishedRangeOfIntensities) {
  const auto [low, high] = range_of_kirklands_image(700.0);
  EXPECT_NEAR(low, 0.72, 0.01);
  EXPECT_NEAR(high, 1.03, 0.01);
}

TEST(Optics, KirklandsFigure512WithTheOtherSignOfDefocusIsAnotherImage) {
  const auto [low, high] = range_of_kirklands_image(-700.0);
  EXPECT_NEAR(low, 0.95, 0.01);
  EXPECT_NEAR(high, 1.06, 0.01);
}

TEST(Optics, APhaseLensFocusesAPlaneWaveDownstream) {
  const int64_t n = 256;
  const double pixel = 0.25;
  const double wavelength = 0.025;
  const double focal_length = 2000.0;
  const at::Tensor x = (at::arange(n, at::kDouble) - n / 2) * pixel;
  const at::Tensor r2 = x.square().unsqueeze(1) + x.square().unsqueeze(0);
  const at::Tensor phase = r2 * (-kPi<double> / (wavelength * focal_length));
  const at::Tensor aperture = r2.lt(16.0 * 16.0).to(at::kDouble);
  const at::Tensor wave = at::polar(aperture, phase);
  std::map<double, double> peak;
  for (const double z : {-2000.0, 0.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0}) {
    peak[z] = intensity(propagated(wave, fresnel_propagator(n, n, pixel, pixel, wavelength, z)))
                  .max()
                  .item<double>();
    const double exact =
        intensity(propagated(wave, angular_spectrum_propagator(n, n, pixel, pixel, wavelength, z)))
            .max()
            .item<double>();
    EXPECT_NEAR(exact / peak[z], 1.0, 0.01);
  }
  for (const auto& [z, value] : peak) {
    if (z == focal_length) continue;
    EXPECT_LT(value, 0.5 * peak[focal_length]) << z;
  }
  // Uniform disc of radius a in focus: (pi a^2 / (lambda f))^2.
  const double expected = std::pow(kPi<double> * 256.0 / (wavelength * focal_length), 2);
  EXPECT_NEAR(peak[focal_length] / expected, 1.0, 0.02);
}

TEST(Optics, AnUnderfocusedProbeIsSmallestItsDefocusDownstream) {
  ProbeOptics optics;
  optics.wavelength_A = electron_wavelength_A(200.0);
  optics.semiangle_mrad = 21.0;
  optics.aberrations.C10 = -200.0;
  const int64_t n = 128;
  const double pixel = 0.25;
  const at::Tensor probe = aberrated_probe(n, n, pixel, pixel, optics);
  EXPECT_NEAR(intensity(probe).sum().item<double>(), 1.0, 1e-12);
  double best = 0.0;
  double best_distance = 0.0;
  int64_t brightest = -1;
  for (double distance = -300.0; distance <= 300.0; distance += 20.0) {
    const at::Tensor there = intensity(
        propagated(probe, fresnel_propagator(n, n, pixel, pixel, optics.wavelength_A, distance)));
    const double peak = there.max().item<double>();
    if (peak > best) {
      best = peak;
      best_distance = distance;
      brightest = there.argmax().item<int64_t>();
    }
  }
  EXPECT_EQ(best_distance, 200.0);
  EXPECT_EQ(brightest, n / 2 * n + n / 2);  // in the window's middle
}

TEST(Optics, IntensityOnAHeavyColumnFirstRisesWithDepth) {
  const Crystal& crystal = lead_titanate();
  const int64_t n = 128;
  const double width = 2.0 * crystal.a_A;
  const double pixel = width / static_cast<double>(n);
  const double depth = 12.0 * crystal.c_A;
  const int64_t slices = 24;
  std::vector<Atom> atoms = crystal_slab(crystal, Orientation::k001, width, width, depth);
  for (Atom& atom : atoms) {  // a lead column in the middle
    atom.row_A = std::fmod(atom.row_A + crystal.a_A, width);
    atom.column_A = std::fmod(atom.column_A + crystal.a_A, width);
  }
  const double limit = 2.0 / 3.0;
  const at::Tensor object =
      transmission(projected_potential(atoms, {n, n, pixel}, depth, slices, limit),
                   interaction_constant_rad_per_VA(200.0), limit, pixel);
  const at::Tensor propagator = fresnel_propagator(n, n, pixel, pixel, electron_wavelength_A(200.0),
                                                   depth / static_cast<double>(slices)) *
                                band_limit_mask(n, n, pixel, pixel, limit);
  at::Tensor wave = at::ones({n, n}, at::kComplexDouble);
  double before = 1.0;
  for (int64_t slice = 0; slice < 6; slice += 2) {  // one cell at a time
    for (int64_t s = slice; s < slice + 2; ++s) wave = propagated(wave * object[s], propagator);
    const double on_column = intensity(wave)[n / 2][n / 2].item<double>();
    EXPECT_GT(on_column, before) << "below slice " << slice + 2;
    before = on_column;
  }
  EXPECT_GT(before, 1.5);
}

TEST(Optics, PropagatorsReproduceTheIntensitiesOfOtherPackages) {
  const std::string folder = data_folder();
  if (folder.empty()) GTEST_SKIP() << "no shared data: set PTYLE_DATA";
  const auto file = hdf5::File::open(folder + "/multislice-oracle/multislice_oracle.h5");
  const double wavelength = file.number_attribute("/", "wavelength_A");
  const double pixel = file.number_attribute("/", "pixel_size_A");
  const double distance = file.number_attribute("/", "slice_spacing_A");
  EXPECT_NEAR(electron_wavelength_A(1e-3 * file.number_attribute("/", "energy_eV")) / wavelength,
              1.0, 1e-6);
  const at::Tensor object = file.read("object");
  const at::Tensor probe = file.read("probe").unsqueeze(0);
  const at::Tensor positions = file.read("positions").to(at::kDouble);
  const auto error = [&](const at::Tensor& propagator, const char* reference_name) {
    const at::Tensor reference = file.read(reference_name);
    const at::Tensor model = diffraction(object, probe, positions, propagator);
    return ((model - reference).abs().max() / reference.max()).item<double>();
  };
  const int64_t n = probe.size(1);
  EXPECT_LT(
      error(fresnel_propagator(n, n, pixel, pixel, wavelength, distance), "intensity_fresnel"),
      1e-10);
  EXPECT_LT(error(angular_spectrum_propagator(n, n, pixel, pixel, wavelength, distance),
                  "intensity_angular_spectrum"),
            1e-10);
}

TEST(Optics, HermiteModesAreOrthogonalAndCarryTwoPercentEach) {
  ProbeOptics optics;
  optics.wavelength_A = 0.025;
  optics.semiangle_mrad = 20.0;
  optics.aberrations.C10 = -100.0;
  const at::Tensor probe = aberrated_probe(32, 30, 0.3, 0.3, optics) * 5.0;
  const at::Tensor modes = add_hermite_modes(probe, 4);
  ASSERT_EQ(modes.sizes(), at::IntArrayRef({4, 32, 30}));
  const at::Tensor flat = modes.reshape({4, -1});
  const at::Tensor gram = at::mm(at::conj_physical(flat), flat.t());
  const at::Tensor expected = at::diag(at::tensor({23.5, 0.5, 0.5, 0.5}, at::kDouble));
  EXPECT_LT((gram - expected).abs().max().item<double>(), 1e-12);
  EXPECT_TRUE(at::equal(add_hermite_modes(probe, 1)[0], probe));
  EXPECT_THROW(add_hermite_modes(probe, 0), ConfigError);
}

TEST(Optics, ShiftByWholePixelsRollsAndKeepsARealWaveReal) {
  const at::Tensor wave = at::rand({6, 9}, at::kDouble).to(at::kComplexDouble);
  EXPECT_LT((shift(wave, 2.0, -1.0) - at::roll(wave, {2, -1}, {0, 1})).abs().max().item<double>(),
            1e-14);
  EXPECT_LT(at::imag(shift(wave, 0.3, 0.7)).abs().max().item<double>(), 1e-14);
}

TEST(Optics, FourierCropKeepsTheValuesOfASmoothImage) {
  const at::Tensor t = at::arange(48, at::kDouble) * (2.0 * kPi<double> / 48.0);
  const at::Tensor image = 1.0 + at::sin(t * 3.0).unsqueeze(1) * at::cos(t * 5.0).unsqueeze(0);
  const at::Tensor cropped = fourier_cropped(image, 16, 24);
  EXPECT_LT((cropped - image.slice(0, 0, 48, 3).slice(1, 0, 48, 2)).abs().max().item<double>(),
            1e-12);
}

TEST(Optics, PartialCoherenceNeedsMoreModesTheLargerTheSource) {
  ProbeOptics optics;
  optics.wavelength_A = 0.025;
  optics.semiangle_mrad = 20.0;
  const at::Tensor probe = aberrated_probe(64, 64, 0.25, 0.25, optics);
  double small_source = 0.0;
  double large_source = 0.0;
  partially_coherent_modes(probe, 0.25, 0.3, 1, &small_source);
  const at::Tensor modes = partially_coherent_modes(probe, 0.25, 1.0, 3, nullptr);
  partially_coherent_modes(probe, 0.25, 1.0, 1, &large_source);
  EXPECT_GT(small_source, 0.8);
  EXPECT_LT(large_source, small_source);
  EXPECT_NEAR(intensity(modes).sum().item<double>(), 1.0, 1e-12);
  // All of them together are the blurred probe: the intensity convolved with a Gaussian.
  const at::Tensor all = partially_coherent_modes(probe, 0.25, 1.0, 49, nullptr);
  const double sigma = 1.0 / 0.25 / (2.0 * std::sqrt(2.0 * std::log(2.0)));
  const at::Tensor k2 = squared_frequencies(64, 64, 1.0, 1.0);
  const at::Tensor blur = at::exp(k2 * (-2.0 * kPi<double> * kPi<double> * sigma * sigma));
  const at::Tensor blurred = at::real(at::fft_ifft2(at::fft_fft2(intensity(probe)) * blur));
  EXPECT_LT(((intensity(all).sum(0) - blurred).abs().max() / blurred.max()).item<double>(), 3e-3);
}

TEST(Scan, RotationTurnsPlusRowTowardsPlusColumn) {
  const at::Tensor positions = raster_positions(2, 2, 10.0, 0.0, 90.0, 0);
  // (row, column) = (i, j) goes to (-j, i), then to non-negative numbers.
  const at::Tensor expected =
      at::tensor({10.0, 0.0, 0.0, 0.0, 10.0, 10.0, 0.0, 10.0}, at::kDouble).view({4, 2});
  EXPECT_LT((positions - expected).abs().max().item<double>(), 1e-12);
}

TEST_F(SimulatedFiles, NoiseFreePatternsAreTheModelOfTheTruth) {
  for (const int64_t slices : {1, 3}) {
    SimulateOptions options = small("PbTiO3", "a" + std::to_string(slices) + ".h5");
    options.dose_per_A2 = 0.0;
    options.slices = slices;
    options.oversampling = 1.0;
    options.band_limit = 0.0;
    options.thickness_nm = 2.0;
    options.jitter_nm = 0.03;
    options.rotation_deg = 12.0;
    simulate(options);
    const auto file = hdf5::File::open(options.output);
    const at::Tensor data = file.read("data");
    ASSERT_EQ(data.sizes(), at::IntArrayRef({12, 32, 32}));
    ASSERT_EQ(data.scalar_type(), at::kFloat);
    const double pixel = 10.0 * file.number_attribute("/", "object_pixel_nm");
    std::optional<at::Tensor> propagator;
    if (slices > 1) {
      propagator = fresnel_propagator(32, 32, pixel, pixel, electron_wavelength_A(200.0),
                                      20.0 / static_cast<double>(slices));
    }
    const at::Tensor model =
        diffraction(file.read("truth/object").to(at::kComplexDouble),
                    file.read("probe").to(at::kComplexDouble), file.read("positions"), propagator);
    const at::Tensor centred = at::fft_fftshift(model, at::IntArrayRef{1, 2});
    EXPECT_LT(((centred - data).abs().max() / data.max()).item<double>(), 1e-5) << slices;
    EXPECT_NEAR(data.sum({1, 2}).mean().item<double>(), 1e6, 2e5);
  }
}

TEST_F(SimulatedFiles, NoWindowLeavesTheObject) {
  SimulateOptions options = small("star", "star.h5");
  options.rotation_deg = 30.0;
  simulate(options);
  const auto file = hdf5::File::open(options.output);
  const at::Tensor positions = file.read("positions");
  const at::Tensor object = file.read("truth/object");
  EXPECT_GE(positions.min().item<double>(), 0.0);
  for (int64_t axis = 0; axis < 2; ++axis) {
    EXPECT_LE(std::floor(positions.select(1, axis).max().item<double>()) + 33.0,
              static_cast<double>(object.size(axis + 1)));
  }
  EXPECT_LE(object.abs().max().item<double>(), 1.05);
}

TEST_F(SimulatedFiles, CountsHaveTheStatedDoseAndTheSeedDecidesThem) {
  SimulateOptions options = small("SrTiO3", "a.h5");
  options.dose_per_A2 = 5000.0;
  options.step_nm = 0.2;
  options.phonons = 2;
  options.slices = 4;
  options.oversampling = 1.0;  // nothing is scattered past the detector's edge
  options.band_limit = 0.0;
  const SimulateSummary summary = simulate(options);
  EXPECT_NEAR(summary.counts_per_position, 20000.0, 1e-6);
  const auto read = [](const std::string& path) {
    return hdf5::File::open(path).read("data").to(at::kDouble);
  };
  const at::Tensor data = read(options.output);
  EXPECT_EQ(hdf5::File::open(options.output).info("data").stored_type, "uint16");
  const double mean = data.sum({1, 2}).mean().item<double>();
  EXPECT_NEAR(mean, 20000.0, 5.0 * std::sqrt(20000.0 / 12.0));

  options.output = (folder_ / "b.h5").string();
  simulate(options);
  EXPECT_TRUE(at::equal(data, read(options.output)));
  options.output = (folder_ / "c.h5").string();
  options.seed = 1;
  simulate(options);
  EXPECT_FALSE(at::equal(data, read(options.output)));
}

TEST_F(SimulatedFiles, OversampledPatternsHoldTheSameIntensityWithinTheDetector) {
  SimulateOptions options = small("PbTiO3", "a.h5");
  options.dose_per_A2 = 0.0;
  options.thickness_nm = 0.4;
  options.max_angle_mrad = 60.0;
  options.oversampling = 1.0;
  options.band_limit = 0.0;
  simulate(options);
  options.output = (folder_ / "b.h5").string();
  options.oversampling = 1.5;
  options.band_limit = 2.0 / 3.0;
  simulate(options);
  const auto coarse = hdf5::File::open((folder_ / "a.h5").string());
  const auto fine = hdf5::File::open(options.output);
  const at::Tensor a = coarse.read("data").narrow(1, 8, 16).narrow(2, 8, 16);
  const at::Tensor b = fine.read("data").narrow(1, 8, 16).narrow(2, 8, 16);
  EXPECT_LT(((a - b).abs().sum() / a.sum()).item<double>(), 0.02);
  EXPECT_LT(
      ((fine.read("probe") - coarse.read("probe")).abs().max() / coarse.read("probe").abs().max())
          .item<double>(),
      1e-5);
}

TEST_F(SimulatedFiles, TheConfigBesideTheFileIsUnderstoodAndNamesIt) {
  SimulateOptions options = small("PbTiO3", "film.h5");
  options.slices = 2;
  const SimulateSummary summary = simulate(options);
  const Config config = load_config(summary.config);
  EXPECT_EQ(config.data.file, options.output);
  EXPECT_EQ(config.object.slices, 2);
  EXPECT_NEAR(config.object.thickness_nm, 8.0, 1e-12);
  EXPECT_EQ(config.beam.kind, "electron");
}

TEST_F(SimulatedFiles, AnExistingFileIsKeptUnlessForced) {
  SimulateOptions options = small("PbTiO3", "film.h5");
  simulate(options);
  EXPECT_THROW(simulate(options), ConfigError);
  options.force = true;
  EXPECT_NO_THROW(simulate(options));
}

TEST_F(SimulatedFiles, ABadOptionIsNamedWithItsRuleAndItsValue) {
  const auto message = [&](const std::function<void(SimulateOptions&)>& spoil) {
    SimulateOptions options = small("PbTiO3", "x.h5");
    spoil(options);
    try {
      simulate(options);
    } catch (const ConfigError& error) {
      EXPECT_EQ(error.exit_code(), 2);
      EXPECT_FALSE(fs::exists(options.output));
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto expect_all = [](const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << text << " lacks " << part;
    }
  };
  expect_all(message([](auto& o) { o.specimen = "gold"; }), {"SPECIMEN", "PbTiO3", "gold"});
  expect_all(message([](auto& o) { o.step_nm = -1.0; }), {"--step-nm", "positive", "-1"});
  expect_all(message([](auto& o) { o.energy_keV = NAN; }), {"--energy-keV", "nan"});
  expect_all(message([](auto& o) { o.window = 33; }), {"--window", "even", "33"});
  expect_all(message([](auto& o) { o.modes = 2; }), {"--modes", "--source-size-nm"});
  expect_all(message([](auto& o) { o.semiangle_mrad = 50.0; }), {"--semiangle-mrad", "42", "50"});
  expect_all(message([](auto& o) { o.orientation = "110"; }), {"--orientation", "110"});
  expect_all(message([](auto& o) { o.dose_per_A2 = 1e12; }), {"--dose", "65535"});
  expect_all(message([](auto& o) { o.aberrations = {{"C99_nm", 1.0}}; }), {"C99_nm", "C30_nm"});
  expect_all(message([](auto& o) { o.output = "/nowhere/at/all.h5"; }), {"-o", "folder"});
}

TEST_F(SimulatedFiles, TheCommandLineReachesTheSimulation) {
  CLI::App app;
  add_simulate_command(app);
  const std::string output = (folder_ / "film.h5").string();
  app.parse(
      "simulate SrTiO3 --window 16 --scan 2 3 --defocus-nm 2 --dose 0 --aberration "
      "C30_nm=1000 --aberration phi12_deg=30 -o " +
      output);
  const auto file = hdf5::File::open(output);
  EXPECT_EQ(file.info("data").shape, (std::vector<std::int64_t>{6, 16, 16}));
  EXPECT_EQ(file.number_attribute("/", "C30_nm"), 1000.0);
  EXPECT_EQ(file.string_attribute("/", "specimen"), "SrTiO3");
}

}  // namespace
}  // namespace ptyle::driver
