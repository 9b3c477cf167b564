// The folder that a run writes into: its rules, its lock, and an earlier run's files in it.
#pragma once

#include <string>

#include "driver/run/run.h"

namespace ptyle::driver {

// Where a run may write at all: asked before anything is read, by `check` too. ConfigError.
void require_writable_folder(const std::string& folder);
// The same of one file that is to be replaced; `what` names the key or option.
void require_replaceable(const std::string& what, const std::string& path);
// Whether an earlier run, or something else, is there: then `run` wants --resume or --overwrite.
bool holds_a_run(const std::string& folder);
// What --resume and --overwrite ask of it. ConfigError.
void require_folder_for(const RunOptions& options, const std::string& folder);

// One run at a time works in a folder; the system lets go of it however the run ends.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

 private:
  int descriptor_;
};

void create_folder(const std::string& folder);
// Away with what a run that was killed while writing left behind.
void remove_leftovers(const std::string& folder);

// With --overwrite an earlier run's files stay, by another name, until the new run has something to
// put in their place.
void set_aside(const std::string& folder);
void remove_set_aside(const std::string& folder);
// Where the new run has nothing, the earlier one's files come back; else they are removed. Also
// after a run that was killed, but not under one that is under way: ConfigError.
void settle_set_aside(const std::string& folder);

}  // namespace ptyle::driver
