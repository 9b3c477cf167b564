// Where the HDF5 library puts a new file: into an Output, which takes every failure on itself. The
// library keeps unwritten data after a failed write, tries again when the program ends, and
// crashes.
#pragma once

#include <cstdint>

#include "driver/io/output.h"

namespace ptyle::driver::hdf5 {

// Makes the file access property list `access` (hid_t) lead to `output`, which must outlive the
// file; the file's name is then of no account. False where the library refuses.
bool lead_to(std::int64_t access, Output& output);

}  // namespace ptyle::driver::hdf5
