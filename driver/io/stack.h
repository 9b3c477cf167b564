// Stacks of patterns in HDF5 files, and the data sets that keys of the config name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/config/config.h"
#include "driver/errors.h"
#include "driver/io/hdf5.h"

namespace ptyle::driver {

struct Located {
  hdf5::File file;
  std::string name;
  // "star.h5: data.mask \"bad\"": how messages begin.
  std::string where(const std::string& key) const {
    return file.path() + ": " + key + " \"" + name + "\"";
  }
};

// A data set of the file at hand, or FILE:DATASET; `value` is that of `key`. ConfigError where
// there is none, DataError where it cannot be opened.
Located locate(const Config& config, const std::string& key, const std::string& value,
               const std::string& file_key, const std::string& default_file);
Located locate_in_data(const Config& config, const std::string& key, const std::string& value);

// The first value that is not finite, as its index in words; empty where all are.
std::string first_not_finite(const at::Tensor& values);

// A stack of patterns [n, H, W] or [scan_rows, scan_columns, H, W], read along its first axis.
struct Stack {
  Located at;
  hdf5::DatasetInfo info;
  std::int64_t patterns = 0;
  std::int64_t per_row = 1;  // patterns in one step of the first axis
  IntegerPair frame = {0, 0};

  std::int64_t rows() const { return info.shape[0]; }
  // In blocks of so many, whole chunks of about 32 MiB, they are read.
  std::int64_t block_rows() const;
};

// A part of the first axis, and of the second where that is the scan's too.
struct Box {
  std::int64_t row = 0, rows = 0, column = 0, columns = 1;
};

// Boxes that hold all of the patterns `held` (ascending): of whole chunks along the first axis, so
// that none is decompressed twice, of about 32 MiB, and no wider than needed.
std::vector<Box> boxes_of(const Stack& stack, const std::vector<std::int64_t>& held);
at::Tensor read_box(const Stack& stack, const Box& box);

// work(place in the box, place in `held`) for every pattern of the box; `next` walks through
// `held`.
template <typename Work>
void for_each_in(const Stack& stack, const Box& box, const std::vector<std::int64_t>& held,
                 std::size_t& next, const Work& work) {
  const std::int64_t end = (box.row + box.rows) * stack.per_row;
  for (; next < held.size() && held[next] < end; ++next) {
    const std::int64_t row = held[next] / stack.per_row - box.row;
    const std::int64_t column = held[next] % stack.per_row - box.column;
    work(row * box.columns + column, static_cast<std::int64_t>(next));
  }
}

// Headers only. DataError where the shape or the type is none of patterns.
Stack open_stack(Located located, const std::string& key);

// Of each frame, whether all of its values are on the disk.
hdf5::Gaps gaps_of(const Stack& stack);
// Frames by what they lack, in words: "3 frames (1, 2, 3) are not stored: ...".
std::string gap_words(const hdf5::Gaps& gaps, const std::vector<std::int64_t>& frames);
void refuse_gaps(const Stack& stack, const std::string& key);

// function(a value of the type): DataError where it is not real.
template <typename Function>
void with_type(at::ScalarType type, const Function& function) {
  switch (type) {
    case at::kByte:
      return function(std::uint8_t{});
    case at::kChar:
      return function(std::int8_t{});
    case at::kShort:
      return function(std::int16_t{});
    case at::kUInt16:
      return function(std::uint16_t{});
    case at::kInt:
      return function(std::int32_t{});
    case at::kUInt32:
      return function(std::uint32_t{});
    case at::kLong:
      return function(std::int64_t{});
    case at::kUInt64:
      return function(std::uint64_t{});
    case at::kFloat:
      return function(float{});
    case at::kDouble:
      return function(double{});
    default:
      throw DataError(std::string("a dataset must hold real numbers, got ") + c10::toString(type));
  }
}

}  // namespace ptyle::driver
