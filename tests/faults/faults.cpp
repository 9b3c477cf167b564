// Stands between a program and the C library's calls that write files. Preloaded, it takes its plan
// from PTYLE_FAULTS="FOLDER:KIND:ERRNO:N" and says in PTYLE_FAULTS_COUNT, a file, how many calls
// there were.
#include "faults.h"

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

namespace ptyle::faults {
namespace {

struct Plan {
  char folder[4096] = "";
  Kind kind = Kind::kOnce;
  int error = 0;
  long n = 0;
};
Plan& current() {
  static Plan instance;
  return instance;
}
std::atomic<long> counted{0};
std::atomic<bool> has_struck{false};

bool below(const char* path) {
  const std::size_t length = std::strlen(current().folder);
  return length > 0 && path != nullptr && std::strncmp(path, current().folder, length) == 0;
}

bool below(int descriptor) {
  char link[64], path[4096];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
  const ssize_t size = readlink(link, path, sizeof(path) - 1);
  if (size <= 0) return false;
  path[size] = '\0';
  return below(path);
}

enum class Fate { kGoesOn, kFails, kHalf, kOneLess };

// Of a call below the folder. `takes_space`: a full disk refuses it.
Fate fate(bool takes_space, bool writes) {
  const Plan& plan = current();
  const long number = ++counted;
  if (plan.n == 0 || number < plan.n) return Fate::kGoesOn;
  switch (plan.kind) {
    case Kind::kOnce:
      if (number > plan.n) return Fate::kGoesOn;
      break;
    case Kind::kShort:
      if (number > plan.n || !writes) return Fate::kGoesOn;
      has_struck = true;
      return Fate::kOneLess;
    case Kind::kFull:
      if (!takes_space) return Fate::kGoesOn;
      if (number == plan.n && writes) {
        has_struck = true;
        return Fate::kHalf;
      }
      break;
    case Kind::kGone:
      break;
  }
  has_struck = true;
  errno = plan.error;
  return Fate::kFails;
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// One call that writes `size` bytes.
template <typename Call>
ssize_t written(int descriptor, std::size_t size, const Call& call) {
  if (!below(descriptor)) return call(size);
  switch (fate(/*takes_space=*/true, /*writes=*/true)) {
    case Fate::kFails:
      return -1;
    case Fate::kHalf:
      if (size < 2) {
        errno = current().error;
        return -1;
      }
      return call(size / 2);
    case Fate::kOneLess:
      return call(size > 1 ? size - 1 : size);
    default:
      return call(size);
  }
}

// Of a call that opens: one that only reads is none of ours, except that of a folder.
bool may_open(const char* path, int flags) {
  const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
  if (!below(path) || (!writes && (flags & O_DIRECTORY) == 0)) return true;
  return fate((flags & O_CREAT) != 0, false) == Fate::kGoesOn;
}

// What a preloaded library is told.
__attribute__((constructor)) void read_environment() {
  const char* text = std::getenv("PTYLE_FAULTS");
  if (text == nullptr) return;
  char folder[4096];
  int kind = 0, error = 0;
  long n = 0;
  if (std::sscanf(text, "%4095[^:]:%d:%d:%ld", folder, &kind, &error, &n) == 4) {
    plan(folder, static_cast<Kind>(kind), error, n);
  }
}

__attribute__((destructor)) void write_count() {
  const char* path = std::getenv("PTYLE_FAULTS_COUNT");
  if (path == nullptr) return;
  const long count = counted;
  current().n = 0;
  if (std::FILE* file = std::fopen(path, "w")) {
    std::fprintf(file, "%ld\n", count);
    std::fclose(file);
  }
}

}  // namespace

void plan(const std::string& folder, Kind kind, int error, long n) {
  Plan& to = current();
  std::snprintf(to.folder, sizeof(to.folder), "%s", folder.c_str());
  to.kind = kind;
  to.error = error;
  to.n = n;
  counted = 0;
  has_struck = false;
}
long calls() { return counted; }
bool struck() { return has_struck; }

}  // namespace ptyle::faults

namespace {
using namespace ptyle::faults;
mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}
}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  static const auto real = next<int (*)(const char*, int, ...)>("open");
  return may_open(path, flags) ? real(path, flags, mode) : -1;
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  static const auto real = next<int (*)(const char*, int, ...)>("open64");
  return may_open(path, flags) ? real(path, flags, mode) : -1;
}

ssize_t write(int descriptor, const void* data, size_t size) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  return written(descriptor, size,
                 [&](std::size_t bytes) { return real(descriptor, data, bytes); });
}

ssize_t pwrite(int descriptor, const void* data, size_t size, off_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  return written(descriptor, size,
                 [&](std::size_t bytes) { return real(descriptor, data, bytes, offset); });
}

ssize_t pwrite64(int descriptor, const void* data, size_t size, off64_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64");
  return written(descriptor, size,
                 [&](std::size_t bytes) { return real(descriptor, data, bytes, offset); });
}

int fsync(int descriptor) {
  static const auto real = next<int (*)(int)>("fsync");
  if (below(descriptor) && fate(false, false) == Fate::kFails) return -1;
  return real(descriptor);
}

static bool grows(int descriptor, off64_t size) {
  struct stat status {};
  return fstat(descriptor, &status) == 0 && status.st_size < size;
}

int ftruncate(int descriptor, off_t size) noexcept {
  static const auto real = next<int (*)(int, off_t)>("ftruncate");
  if (below(descriptor) && fate(grows(descriptor, size), false) == Fate::kFails) return -1;
  return real(descriptor, size);
}

int ftruncate64(int descriptor, off64_t size) noexcept {
  static const auto real = next<int (*)(int, off64_t)>("ftruncate64");
  if (below(descriptor) && fate(grows(descriptor, size), false) == Fate::kFails) return -1;
  return real(descriptor, size);
}

int rename(const char* from, const char* to) noexcept {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  if (below(to) && fate(false, false) == Fate::kFails) return -1;
  return real(from, to);
}

int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = next<int (*)(const char*, mode_t)>("mkdir");
  if (below(path) && fate(true, false) == Fate::kFails) return -1;
  return real(path, mode);
}

// The descriptor is gone, whatever it returns.
int close(int descriptor) {
  static const auto real = next<int (*)(int)>("close");
  const int flags = fcntl(descriptor, F_GETFL);
  const bool writes = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
  const bool fails = writes && below(descriptor) && fate(false, false) == Fate::kFails;
  const int error = errno;
  const int status = real(descriptor);
  if (fails) errno = error;
  return fails ? -1 : status;
}

}  // extern "C"
