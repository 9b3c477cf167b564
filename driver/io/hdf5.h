// HDF5 files as at::Tensor: handles that close themselves, and errors that name file and path.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/io/output.h"
#include "driver/io/storage.h"

namespace ptyle::driver::hdf5 {

struct Filter {
  int id = 0;
  std::string name;  // what it is called, "filter 32008" where unknown
  bool available = true;
};

struct DatasetInfo {
  std::vector<std::int64_t> shape;  // empty for a scalar
  // Type of the tensor that read gives: the stored one, float16 as float32, bool as uint8.
  at::ScalarType type = at::kFloat;
  std::string stored_type;          // as stored, in words: "uint16", "float16", "complex64"
  std::vector<std::int64_t> chunk;  // empty where contiguous
  std::vector<Filter> filters;
  std::int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
};

struct WriteOptions {
  std::vector<std::int64_t> chunk;  // empty: contiguous, or one chunk of at most 1 MiB with gzip
  int gzip = 0;                     // 0 (none) to 9, with the shuffle filter
};

class File {
 public:
  static File open(const std::string& path);  // read only; DataError
  // Takes the place of `path` in close(), never without it. What the system refuses is no error
  // before close() or require(): several ranks that bring a file together come to its end first.
  static File create(const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  bool is_dataset(const std::string& name) const;
  bool is_group(const std::string& name) const;
  // Full names of all datasets, links followed, at most `limit`.
  std::vector<std::string> dataset_names(std::size_t limit = 200) const;
  // The first of them in words, and of what cannot be opened.
  std::string contents() const;
  // Why `name`, which is there, cannot be opened as a dataset; empty where it can or is not there.
  std::string trouble(const std::string& name) const;
  // Which entries of the first axes hold values that no file has; read_* makes them up.
  Gaps gaps(const std::string& name, int axes) const;
  DatasetInfo info(const std::string& name) const;

  // The whole dataset, in the type info() gives; complex from compounds of two floats. Of a file
  // that is only read, DataError where some of it is not stored.
  at::Tensor read(const std::string& name) const;
  // The area that begins at `start` and has `count` entries along each axis.
  at::Tensor read_area(const std::string& name, const std::vector<std::int64_t>& start,
                       const std::vector<std::int64_t>& count) const;

  // Groups on the way are created.
  void create_group(const std::string& name);
  void write(const std::string& name, const at::Tensor& tensor, const WriteOptions& options = {});
  void create_dataset(const std::string& name, const std::vector<std::int64_t>& shape,
                      at::ScalarType type, const WriteOptions& options = {});
  void write_rows(const std::string& name, std::int64_t first, const at::Tensor& rows);
  void write_area(const std::string& name, const std::vector<std::int64_t>& start,
                  const at::Tensor& area);

  // Attributes of a group or dataset ("/" is the root).
  void set_attribute(const std::string& object, const std::string& name, const std::string& value);
  void set_attribute(const std::string& object, const std::string& name, const char* value);
  void set_attribute(const std::string& object, const std::string& name, double value);
  void set_attribute(const std::string& object, const std::string& name, std::int64_t value);
  void set_attribute(const std::string& object, const std::string& name,
                     const std::vector<double>& values);
  void set_attribute(const std::string& object, const std::string& name,
                     const std::vector<std::int64_t>& values);
  bool has_attribute(const std::string& object, const std::string& name) const;
  std::string string_attribute(const std::string& object, const std::string& name) const;
  double number_attribute(const std::string& object, const std::string& name) const;
  std::int64_t integer_attribute(const std::string& object, const std::string& name) const;
  std::vector<double> numbers_attribute(const std::string& object, const std::string& name) const;

  // WriteError where the system refused something that was written.
  void require() const;
  // `write`, unless something was refused before; no error because of what is refused now.
  void attempt(const std::function<void()>& write);
  // Of a new file: onto the disk and into its place; WriteError.
  void close();

 private:
  File(std::string path, std::int64_t id, std::unique_ptr<Output> output);
  [[noreturn]] void fail(const std::string& what) const;
  // Without `start` and `count`: the whole dataset.
  at::Tensor read_block(const std::string& name, const std::vector<std::int64_t>* start,
                        const std::vector<std::int64_t>* count) const;
  std::string path_;
  std::int64_t id_ = -1;            // hid_t
  std::unique_ptr<Output> output_;  // of a new file
  bool writable() const { return output_ != nullptr; }
  // The dataset that was read last stays open where the file is only read: asking for its facts
  // takes longer than a pattern, and its cache holds the chunk that the next read may need.
  struct Opened;
  std::shared_ptr<const Opened> opened(const std::string& name) const;
  mutable std::shared_ptr<const Opened> opened_;
};

// A new file by what `write` does: after a crash or a failure there is either the old file or the
// new one, whole.
void write_atomically(const std::string& path, const std::function<void(File&)>& write);

}  // namespace ptyle::driver::hdf5
