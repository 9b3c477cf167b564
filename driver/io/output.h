// Files as they are written, so that a full disk, a quota or a folder that is gone is one sentence
// with the system's reason, and what was there before stays whole.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ptyle::driver {

// Writes all of `bytes` to a descriptor, however many calls that takes. Returns 0, or errno.
int write_all(int descriptor, std::string_view bytes) noexcept;
// Closes it once everything is on the disk. Returns 0, or errno.
int close_synced(int descriptor) noexcept;

// A file that takes the place of `path` once it is complete and on the disk: after a crash there is
// either the old one or the new one. Until then it is path.tmp.PID.
//
// Writing never throws: the first failure is kept, what follows it is dropped, and `require` or
// `commit` says it. Whoever writes into it (a library that cannot stand a failure, ranks that send
// one after another) comes to an orderly end first.
class Output {
 public:
  explicit Output(std::string path);
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output();  // without commit: nothing of it is left

  const std::string& path() const { return path_; }
  void write_at(const void* data, std::size_t size, std::int64_t offset) noexcept;
  // Zeros where nothing was written.
  void read_at(void* data, std::size_t size, std::int64_t offset) noexcept;
  void resize(std::int64_t size) noexcept;

  bool failed() const { return error_ != 0; }
  // WriteError with file and reason where something failed.
  void require() const;
  // Onto the disk and into its place; WriteError.
  void commit();

 private:
  void keep(int error) noexcept {
    if (error_ == 0) error_ = error;
  }
  std::string path_, temporary_;
  int descriptor_ = -1;
  int error_ = 0;  // errno of the first failure
};

// All of a file at once.
void replace_file(const std::string& path, std::string_view bytes);

}  // namespace ptyle::driver
