#include <cstddef>
#include <string>
#include <vector>

#include "driver/check/parts.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

using words::number;

struct Unit {
  const char* name;
  double in_own;  // one of it in the key's own unit
};

struct Range {
  double least, most;
  const char* unit;
};

void doubt_range(const std::string& key, double value, const Range& range, const std::string& what,
                 const std::vector<Unit>& others, std::vector<Doubt>& found) {
  if (value >= range.least && value <= range.most) return;
  std::string text = key + " = " + number(value, 6) + " is unusual for " + what + " (from " +
                     number(range.least) + " to " + number(range.most) + " " + range.unit + ")";
  for (const Unit& unit : others) {
    const double meant = value * unit.in_own;
    if (meant < range.least || meant > range.most) continue;
    text += std::string(": is it in ") + unit.name + " (" + number(meant) + " " + range.unit + ")?";
    break;
  }
  found.push_back({text, "the unit of " + key});
}

// Energy and object's pixel that are usual for the other kind of beam and odd for this one.
std::string doubt_of_kind(const Config& config, const Problem& problem) {
  if (!config.beam.energy_keV || !problem.pixel_row_A) return "";
  const double energy = *config.beam.energy_keV, pixel_nm = 0.1 * *problem.pixel_row_A;
  const std::string values = " with beam.energy_keV = " + number(energy, 6) +
                             " and an object's pixel of " + number(pixel_nm) + " nm";
  // X-rays of such energies do not resolve what electrons do, and nobody looks at so little with
  // electrons as slow as that.
  const bool electrons_sizes = energy >= 30.0 && energy <= 1000.0 && pixel_nm < 0.3;
  const bool xray_sizes = (energy >= 0.1 && energy <= 20.0 && pixel_nm > 0.5) ||
                          (energy > 20.0 && energy <= 60.0 && pixel_nm > 10.0);
  constexpr double kElectronLens = 3.0;  // mrad; X-ray lenses have less
  if (config.beam.kind == "xray" && electrons_sizes) {
    return "beam.kind = \"xray\"" + values + ": is it \"electron\"?";
  }
  if (config.beam.kind == "electron" && xray_sizes &&
      config.probe.semiangle_mrad.value_or(0.0) < kElectronLens) {
    return "beam.kind = \"electron\"" + values + ": is it \"xray\"?";
  }
  return "";
}

}  // namespace

void doubt_units(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  if (const std::string text = doubt_of_kind(config, problem); !text.empty()) {
    found.push_back({text, "the kind of beam (beam.kind)"});
    return;
  }
  const bool electrons = config.beam.kind == "electron", near = config.detector.geometry == "near";
  const std::string beam = electrons ? "electrons" : "X-rays";
  const auto doubt = [&](const std::string& key, double value, const Range& range,
                         const std::vector<Unit>& others) {
    doubt_range(key, value, range, beam, others, found);
  };
  const std::size_t before = found.size();
  if (config.beam.energy_keV) {
    doubt("beam.energy_keV", *config.beam.energy_keV,
          electrons ? Range{1.0, 1000.0, "keV"} : Range{0.1, 200.0, "keV"},
          {{"eV", 1e-3}, {"MeV", 1e3}});
  }
  const Config::Detector& detector = config.detector;
  // Both axes alike: the first that is unusual is named.
  const auto doubt_pair = [&](const std::string& key, const std::optional<NumberPair>& pair,
                              const Range& range, const std::vector<Unit>& others) {
    if (!pair) return;
    const std::size_t count = found.size();
    for (const double value : *pair) {
      if (found.size() == count) doubt(key, value, range, others);
    }
  };
  doubt_pair("detector.pixel_size_um", detector.pixel_size_um,
             near ? Range{1e-3, 500.0, "um"} : Range{1.0, 500.0, "um"},
             {{"m", 1e6}, {"mm", 1e3}, {"nm", 1e-3}});
  doubt_pair("detector.pixel_mrad", detector.pixel_mrad,
             electrons ? Range{1e-3, 20.0, "mrad"} : Range{1e-5, 20.0, "mrad"},
             {{"rad", 1e3}, {"urad", 1e-3}});
  doubt_pair("detector.pixel_per_nm", detector.pixel_per_nm,
             electrons ? Range{1e-3, 10.0, "1/nm"} : Range{1e-7, 1.0, "1/nm"},
             {{"1/angstrom", 10.0}, {"1/m", 1e-9}});
  doubt_pair("detector.object_pixel_nm", detector.object_pixel_nm,
             electrons ? Range{2e-3, 10.0, "nm"} : Range{0.5, 2e4, "nm"},
             {{"angstrom", 0.1}, {"pm", 1e-3}, {"m", 1e9}, {"um", 1e3}});
  if (detector.distance_m) {
    doubt("detector.distance_m", *detector.distance_m,
          near ? Range{1e-6, 100.0, "m"} : Range{1e-2, 50.0, "m"},
          {{"mm", 1e-3}, {"cm", 1e-2}, {"um", 1e-6}});
  }
  const std::size_t of_sampling = found.size();
  if (config.object.slices > 1) {
    doubt("object.thickness_nm", config.object.thickness_nm,
          electrons ? Range{0.1, 1000.0, "nm"} : Range{1.0, 1e8, "nm"},
          {{"angstrom", 0.1}, {"m", 1e9}, {"um", 1e3}, {"pm", 1e-3}});
  }
  // What they mean together, where each alone is usual.
  if (of_sampling > before || !problem.pixel_row_A || detector.object_pixel_nm) return;
  const double pixel_nm = 0.1 * *problem.pixel_row_A;
  const Range usual = electrons ? Range{2e-3, 10.0, "nm"} : Range{0.5, 2e4, "nm"};
  if (pixel_nm < usual.least || pixel_nm > usual.most) {
    found.push_back({"the object's pixel of " + number(pixel_nm) + " nm is unusual for " + beam +
                         " (from " + number(usual.least) + " to " + number(usual.most) +
                         " nm): are energy, detector pixel and distance in their units?",
                     "the sampling's unit"});
  } else if (!near && problem.wavelength_A && *problem.pixel_row_A < 0.5 * *problem.wavelength_A) {
    found.push_back({"the object's pixel of " + number(pixel_nm) +
                         " nm is less than half the wavelength of " +
                         number(0.1 * *problem.wavelength_A) +
                         " nm, which no angle resolves: are energy, detector pixel and distance in "
                         "their units?",
                     "the sampling's unit"});
  }
}

}  // namespace ptyle::driver
