#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "driver/check/parts.h"
#include "driver/check/words.h"

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

}  // namespace

void doubt_units(const Config& config, const Problem& problem, std::vector<Doubt>& found) {
  const bool electrons = config.beam.kind == "electron", near = config.detector.geometry == "near";
  const std::string beam = electrons ? "electrons" : "X-rays";
  const auto doubt = [&](const std::string& key, double value, const Range& range,
                         const std::vector<Unit>& others) {
    doubt_range(key, value, range, beam, others, found);
  };
  if (config.beam.energy_keV) {
    doubt("beam.energy_keV", *config.beam.energy_keV,
          electrons ? Range{1.0, 1000.0, "keV"} : Range{0.1, 200.0, "keV"},
          {{"eV", 1e-3}, {"MeV", 1e3}});
  }
  const Config::Detector& detector = config.detector;
  const std::size_t before = found.size();
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
  // What they mean together, where each alone is usual.
  if (found.size() > before || !problem.pixel_row_A || detector.object_pixel_nm) return;
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
