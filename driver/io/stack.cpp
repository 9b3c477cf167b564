#include "driver/io/stack.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <system_error>
#include <utility>

#include <ATen/TensorOperators.h>

#include "driver/io/frames.h"
#include "driver/words.h"

namespace ptyle::driver {
namespace {

// Patterns are read in blocks of about this size: whole chunks, and never two copies of all.
constexpr std::int64_t kBlockBytes = std::int64_t{32} << 20;

hdf5::File open_named(const Config& config, const std::string& key, const std::string& path) {
  std::error_code status;
  if (!std::filesystem::is_regular_file(path, status)) {
    throw_config_error(config, key, "name an existing file", "\"" + path + "\"");
  }
  return hdf5::File::open(path);
}

}  // namespace

std::int64_t Stack::block_rows() const {
  const auto element = static_cast<std::int64_t>(c10::elementSize(info.type));
  const std::int64_t row_bytes = std::max<std::int64_t>(1, per_row * frame[0] * frame[1] * element);
  std::int64_t count = std::max<std::int64_t>(1, kBlockBytes / row_bytes);
  // Whole chunks, so that none is decompressed twice.
  const std::int64_t chunk = info.chunk.empty() ? 1 : std::max<std::int64_t>(1, info.chunk[0]);
  return (count + chunk - 1) / chunk * chunk;
}

Located locate(const Config& config, const std::string& key, const std::string& value,
               const std::string& file_key, const std::string& default_file) {
  const DatasetName parts = split_dataset_name(value);
  const bool elsewhere = !parts.file.empty();
  const std::string path = elsewhere ? parts.file : default_file;
  const std::string& name = parts.dataset;
  Located located{open_named(config, elsewhere ? key : file_key, path), name};
  if (!located.file.is_dataset(name)) {
    const std::string why = located.file.trouble(name);
    if (!why.empty() && !located.file.is_group(name)) {
      throw DataError(located.where(key) + " cannot be opened: " + why);
    }
    throw_config_error(config, key,
                       "name a dataset of " + path + " (it has " + located.file.contents() + ")",
                       "\"" + name + "\"" + (why.empty() ? "" : ": " + why));
  }
  return located;
}

Located locate_in_data(const Config& config, const std::string& key, const std::string& value) {
  return locate(config, key, value, "data.file", config.data.file);
}

std::string first_not_finite(const at::Tensor& values) {
  const at::Tensor real = values.is_complex() ? at::Tensor(values.abs()) : values;
  const at::Tensor bad = real.isfinite().logical_not().flatten();
  if (!bad.any().item<bool>()) return "";
  std::int64_t flat = bad.to(at::kByte).argmax().item<std::int64_t>();
  std::vector<std::int64_t> index(static_cast<std::size_t>(values.dim()));
  for (std::size_t axis = index.size(); axis-- > 0;) {
    const std::int64_t size = values.size(static_cast<std::int64_t>(axis));
    index[axis] = flat % size;
    flat /= size;
  }
  return words::shape(index);
}

std::vector<Box> boxes_of(const Stack& stack, const std::vector<std::int64_t>& held) {
  const std::int64_t chunk =
      stack.info.chunk.empty() ? 1 : std::max<std::int64_t>(1, stack.info.chunk[0]);
  const std::int64_t most = stack.block_rows();
  std::vector<Box> boxes;
  for (const std::int64_t pattern : held) {
    const std::int64_t row = pattern / stack.per_row, column = pattern % stack.per_row;
    Box* last = boxes.empty() ? nullptr : &boxes.back();
    const bool follows = last != nullptr &&
                         row / chunk <= (last->row + last->rows - 1) / chunk + 1 &&
                         (row < last->row + last->rows || row + 1 - last->row <= most ||
                          row / chunk == (last->row + last->rows - 1) / chunk);
    if (!follows) {
      boxes.push_back({row, 1, column, 1});
      continue;
    }
    last->rows = row + 1 - last->row;
    const std::int64_t end = std::max(last->column + last->columns, column + 1);
    last->column = std::min(last->column, column);
    last->columns = end - last->column;
  }
  return boxes;
}

at::Tensor read_box(const Stack& stack, const Box& box) {
  std::vector<std::int64_t> start(stack.info.shape.size(), 0), count = stack.info.shape;
  start[0] = box.row;
  count[0] = box.rows;
  if (stack.info.shape.size() == 4) {
    start[1] = box.column;
    count[1] = box.columns;
  }
  return stack.at.file.read_area(stack.at.name, start, count);
}

Stack open_stack(Located located, const std::string& key) {
  Stack stack{std::move(located), {}, 0, 1, {0, 0}};
  stack.info = stack.at.file.info(stack.at.name);
  const std::vector<std::int64_t>& shape = stack.info.shape;
  if (shape.size() != 3 && shape.size() != 4) {
    throw DataError(stack.at.where(key) +
                    " must have the shape [positions, rows, columns] or [scan_rows, scan_columns, "
                    "rows, columns], got " +
                    words::shape(shape));
  }
  if (c10::isComplexType(stack.info.type)) {
    throw DataError(stack.at.where(key) + " must hold integers or real numbers, got " +
                    stack.info.stored_type);
  }
  for (const std::int64_t size : shape) {
    if (size == 0) {
      throw DataError(stack.at.where(key) + " must not be empty, got the shape " +
                      words::shape(shape));
    }
  }
  stack.per_row = shape.size() == 4 ? shape[1] : 1;
  stack.patterns = shape[0] * stack.per_row;
  stack.frame = {shape[shape.size() - 2], shape[shape.size() - 1]};
  return stack;
}

hdf5::Gaps gaps_of(const Stack& stack) {
  return stack.at.file.gaps(stack.at.name, static_cast<int>(stack.info.shape.size()) - 2);
}

std::string gap_words(const hdf5::Gaps& gaps, const std::vector<std::int64_t>& frames) {
  std::string text;
  for (std::size_t reason = 0; reason < gaps.reasons.size(); ++reason) {
    std::vector<std::int64_t> these;
    for (const std::int64_t frame : frames) {
      const std::int32_t number = gaps.reason_of[static_cast<std::size_t>(frame)];
      if (number == static_cast<std::int32_t>(reason)) these.push_back(frame);
    }
    if (these.empty()) continue;
    text += (text.empty() ? "" : "; ") + frame_words(these) +
            (these.size() == 1 ? " is not stored: " : " are not stored: ") + gaps.reasons[reason];
  }
  return text;
}

void refuse_gaps(const Stack& stack, const std::string& key) {
  const hdf5::Gaps gaps = gaps_of(stack);
  if (!gaps.any()) return;
  std::vector<std::int64_t> frames(gaps.reason_of.size());
  std::iota(frames.begin(), frames.end(), 0);
  throw DataError(stack.at.where(key) + " has frames without values: " + gap_words(gaps, frames));
}

}  // namespace ptyle::driver
