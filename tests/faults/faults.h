// System calls that fail: the n-th one that writes below a folder, in this process (where
// faults.cpp is compiled into the program) or in any (where it is preloaded as a library).
#pragma once

#include <string>

namespace ptyle::faults {

enum class Kind {
  kOnce,   // the call fails, the ones behind it do not: an error of input or output
  kFull,   // half of what it writes is written, nothing more from there on: a full disk, a quota
  kGone,   // the call and all behind it fail: a folder that has vanished
  kShort,  // it writes one byte less than asked, which is no error
};

// Counts calls below `folder` from 0 again; the n-th (from 1) and, by kind, those behind it fail
// with `error`. n = 0: none.
void plan(const std::string& folder, Kind kind, int error, long n);
// How many calls there were, and whether one of them has failed (or was cut short).
long calls();
bool struck();

}  // namespace ptyle::faults
