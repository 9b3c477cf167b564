// `ptyle run`: from a config to a folder with the result.
#pragma once

#include <string>

#include "driver/config/config.h"

namespace ptyle::driver {

struct RunOptions {
  bool resume = false;     // go on from the folder's checkpoint
  std::string trace;       // a file for Perfetto; empty: none
  bool overwrite = false;  // replace what an earlier run left in the folder
};

// Returns when the result is written. Throws Interrupted after SIGINT, SIGTERM or SIGHUP, once the
// batch under way is done and checkpoint, result and pictures are saved.
void run(Config config, const RunOptions& options);

}  // namespace ptyle::driver
