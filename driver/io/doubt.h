#pragma once

#include <string>

namespace ptyle::driver {

struct Doubt {
  enum About { kOther, kFrames, kPixels };

  std::string text;      // one sentence
  std::string cause;     // in a few words, where it would spoil the fit; else empty
  About about = kOther;  // what residuals may prove
};

}  // namespace ptyle::driver
