#include "driver/run/folder.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include "driver/errors.h"

namespace ptyle::driver {
namespace {

namespace fs = std::filesystem;

// config.toml, which every run has, is set aside last and removed last, and comes back first: where
// config.toml.old is, everything was set aside, and what has its own name is the new run's.
constexpr std::array<const char*, 7> kOwnFiles = {
    "checkpoint.h5",        "result.h5", "metrics.jsonl", "object_phase.png",
    "object_amplitude.png", "probe.png", "config.toml"};
constexpr const char* kConfig = kOwnFiles.back();

fs::path own(const std::string& folder, const std::string& name) { return fs::path(folder) / name; }
fs::path aside(const std::string& folder, const std::string& name) {
  return fs::path(folder) / (name + ".old");
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool can_write(const fs::path& path) { return access(path.c_str(), W_OK) == 0; }

// What a run leaves that failed before its first checkpoint: a config and metrics.
bool has_no_result(const std::string& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name != kConfig && name != "metrics.jsonl" && name.find(".tmp.") == std::string::npos) {
      return false;
    }
  }
  return true;
}

}  // namespace

void require_replaceable(const std::string& what, const std::string& path) {
  std::error_code error;
  if (is_there(path) && (!fs::is_regular_file(path, error) || !can_write(path))) {
    throw ConfigError(what + ": must be a file that can be replaced, got " + path);
  }
  const fs::path parent = fs::path(path).parent_path();
  const fs::path folder = parent.empty() ? fs::path(".") : parent;
  if (is_there(folder) && can_write(folder)) return;
  throw ConfigError(what + ": must lie in a folder that can be written, got " + path);
}

void require_writable_folder(const std::string& folder) {
  std::error_code error;
  if (!is_there(folder)) {
    fs::path above = fs::absolute(folder, error).lexically_normal().parent_path();
    while (!is_there(above) && above.has_relative_path()) above = above.parent_path();
    if (!fs::is_directory(above, error) || !can_write(above)) {
      throw ConfigError("output.folder: must lie in a folder that can be written, got " + folder);
    }
    return;
  }
  if (!fs::is_directory(folder, error)) {
    throw ConfigError("output.folder: must be a folder, got the file " + folder);
  }
  for (const char* name : kOwnFiles) {
    require_replaceable("output.folder", own(folder, name).string());
  }
}

bool holds_a_run(const std::string& folder) {
  std::error_code error;
  return is_there(folder) && !fs::is_empty(folder, error) && !has_no_result(folder);
}

void require_folder_for(const RunOptions& options, const std::string& folder) {
  if (options.overwrite || !holds_a_run(folder)) return;
  if (!options.resume) {
    throw ConfigError(
        "output.folder: must be new or empty (--resume goes on from its checkpoint, --overwrite "
        "replaces its files), got " +
        folder);
  }
  if (!is_there(own(folder, "checkpoint.h5"))) {
    throw ConfigError("output.folder: must hold a checkpoint.h5 to resume from, got " + folder +
                      " with other files and no checkpoint (--overwrite replaces them)");
  }
}

FolderLock::FolderLock(const std::string& folder)
    : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ < 0) throw WriteError(folder + ": cannot be opened: " + std::strerror(errno));
  // A file system without locks keeps nobody from working.
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    close(descriptor_);
    throw ConfigError("output.folder: must not be that of a run under way, got " + folder);
  }
}

FolderLock::~FolderLock() { close(descriptor_); }

void create_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) return;
  // Rights and names are the config's fault, everything else the system's.
  for (const std::errc fault :
       {std::errc::permission_denied, std::errc::operation_not_permitted,
        std::errc::read_only_file_system, std::errc::not_a_directory, std::errc::file_exists,
        std::errc::filename_too_long, std::errc::too_many_symbolic_link_levels}) {
    if (error != fault) continue;
    throw ConfigError("output.folder: must be a folder that can be written, got " + folder + " (" +
                      error.message() + ")");
  }
  throw WriteError(folder + ": cannot be made: " + error.message());
}

void remove_leftovers(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    for (const char* own_name : kOwnFiles) {
      if (name.starts_with(std::string(own_name) + ".tmp.")) leftovers.push_back(entry.path());
    }
  }
  for (const fs::path& path : leftovers) fs::remove(path, error);
}

void set_aside(const std::string& folder) {
  for (const char* name : kOwnFiles) {
    const fs::path path = own(folder, name);
    std::error_code error;
    if (!is_there(path)) continue;
    fs::rename(path, aside(folder, name), error);
    if (error) throw WriteError(path.string() + ": cannot be renamed: " + error.message());
  }
}

void remove_set_aside(const std::string& folder) {
  std::error_code error;
  for (const char* name : kOwnFiles) fs::remove(aside(folder, name), error);
}

void settle_set_aside(const std::string& folder) {
  const auto is_aside = [&](const char* name) { return is_there(aside(folder, name)); };
  if (std::none_of(kOwnFiles.begin(), kOwnFiles.end(), is_aside)) return;
  const FolderLock lock(folder);
  const bool all_aside = is_aside(kConfig);
  if (all_aside && (is_there(own(folder, "checkpoint.h5")) || is_there(own(folder, "result.h5")))) {
    remove_set_aside(folder);
    return;
  }
  std::error_code error;
  for (auto name = kOwnFiles.rbegin(); name != kOwnFiles.rend(); ++name) {
    if (!is_aside(*name) || (!all_aside && is_there(own(folder, *name)))) continue;
    fs::rename(aside(folder, *name), own(folder, *name), error);
  }
}

}  // namespace ptyle::driver
