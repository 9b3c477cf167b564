// Why an object of an HDF5 file cannot be opened, and which values of a dataset are nowhere on the
// disk. HDF5 answers "no" to the first question and with fill values to the second: a virtual
// dataset whose source is gone and a chunk that was never written read as zeros.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ptyle::driver::hdf5 {

// Of the entries of a dataset's first axes, which have values that would be made up.
struct Gaps {
  static constexpr std::int32_t kNone = -1;
  std::vector<std::string> reasons;     // each once, completes "... : "
  std::vector<bool> never_written;      // of each reason: the room is there, nothing in it
  std::vector<std::int32_t> reason_of;  // by entry, row-major; kNone: all its values are stored
  bool any() const { return !reasons.empty(); }
};

// Over the first `axes` axes of a dataset; 0: one entry, the whole of it. `dataset` is its hid_t.
Gaps find_gaps(std::int64_t dataset, int axes);

// Why `name` is no dataset that can be opened: "it is a link to ...". Empty where it is one, and
// where nothing has this name. `file` is its hid_t.
std::string trouble_with(std::int64_t file, const std::string& name);

// Why a file cannot be opened, from the error that HDF5 has just left.
std::string why_not_opened(const std::string& path);

// Full names of the datasets below a group, links followed, with what is wrong where one cannot be
// opened: "entry/data_000002 (a link to ...)". At most `limit`.
struct NamedDataset {
  std::string name;
  std::string trouble;  // empty where it can be opened
};
std::vector<NamedDataset> list_datasets(std::int64_t file, const std::string& group,
                                        std::size_t limit);

}  // namespace ptyle::driver::hdf5
