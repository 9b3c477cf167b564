#include "driver/io/output.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <unistd.h>
#include <utility>

#include "driver/errors.h"

namespace ptyle::driver {
namespace {

// Some file systems cannot sync (a folder, mostly); that is no reason to lose a result.
bool cannot_sync(int error) { return error == EINVAL || error == ENOTSUP || error == ENOSYS; }

int sync(int descriptor) {
  while (::fsync(descriptor) != 0) {
    if (errno == EINTR) continue;
    return cannot_sync(errno) ? 0 : errno;
  }
  return 0;
}

// So that the new name survives a crash too.
int sync_folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int descriptor =
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return errno;
  const int error = sync(descriptor);
  ::close(descriptor);
  return error;
}

}  // namespace

int close_synced(int descriptor) noexcept {
  const int error = sync(descriptor);
  // Some network file systems only say here that nothing was kept.
  if (::close(descriptor) != 0 && errno != EINTR && error == 0) return errno;
  return error;
}

int write_all(int descriptor, std::string_view bytes) noexcept {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (written == 0) return ENOSPC;  // never in a loop that does not end
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

Output::Output(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".tmp." + std::to_string(::getpid())) {
  descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) keep(errno);
}

Output::~Output() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void Output::write_at(const void* data, std::size_t size, std::int64_t offset) noexcept {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0 && error_ == 0) {
    const ssize_t written = ::pwrite(descriptor_, bytes, size, offset);
    if (written > 0) {
      bytes += written;
      offset += written;
      size -= static_cast<std::size_t>(written);
    } else if (written == 0) {
      keep(ENOSPC);
    } else if (errno != EINTR) {
      keep(errno);
    }
  }
}

void Output::read_at(void* data, std::size_t size, std::int64_t offset) noexcept {
  auto* bytes = static_cast<char*>(data);
  while (size > 0 && error_ == 0) {
    const ssize_t got = ::pread(descriptor_, bytes, size, offset);
    if (got > 0) {
      bytes += got;
      offset += got;
      size -= static_cast<std::size_t>(got);
    } else if (got == 0) {
      break;
    } else if (errno != EINTR) {
      keep(errno);
    }
  }
  std::memset(bytes, 0, size);
}

void Output::resize(std::int64_t size) noexcept {
  while (error_ == 0 && ::ftruncate(descriptor_, size) != 0) {
    if (errno != EINTR) keep(errno);
  }
}

void Output::require() const {
  if (error_ != 0) throw WriteError(path_ + ": cannot be written: " + std::strerror(error_));
}

void Output::commit() {
  if (descriptor_ >= 0) keep(close_synced(std::exchange(descriptor_, -1)));
  require();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) keep(errno);
  require();
  temporary_.clear();
  keep(sync_folder_of(path_));
  require();
}

void replace_file(const std::string& path, std::string_view bytes) {
  Output output(path);
  output.write_at(bytes.data(), bytes.size(), 0);
  output.commit();
}

}  // namespace ptyle::driver
