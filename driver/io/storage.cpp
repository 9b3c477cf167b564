#include "driver/io/storage.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <tuple>
#include <unistd.h>
#include <utility>

#include "driver/io/hdf5_handle.h"
#include "driver/words.h"

namespace ptyle::driver::hdf5 {
namespace {

namespace fs = std::filesystem;

using Sizes = std::vector<hsize_t>;

bool contains(const std::string& text, const char* words) {
  return text.find(words) != std::string::npos;
}

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

std::string library_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
}

// "bad version number for ..." and its like: formats that came after this library.
std::string newer_words() {
  return "it was written by a newer HDF5 library than this program's " + library_version() +
         ": copy it with that library's `h5repack --high=2 FILE COPY`, or write it with h5py's "
         "libver=(\"earliest\", \"v110\")";
}

std::string without_frame(const std::string& cause) {  // " (HDF5: ...)" -> "..."
  constexpr std::size_t kHead = 8;
  return cause.size() > kHead ? cause.substr(kHead, cause.size() - kHead - 1) : cause;
}

std::string reason_of_cause(const std::string& cause) {
  if (contains(cause, "version")) return newer_words();
  return "the HDF5 library " + library_version() + " cannot read it" +
         (cause.empty() ? "" : ": " + without_frame(cause));
}

// ---- files that others name ----

std::string file_name_of(hid_t object) {
  const ssize_t size = H5Fget_name(object, nullptr, 0);
  if (size <= 0) return {};
  std::string name(static_cast<std::size_t>(size) + 1, '\0');
  H5Fget_name(object, name.data(), name.size());
  name.resize(static_cast<std::size_t>(size));
  return name;
}

struct Beside {
  Handle file;
  std::string why;  // it could not be opened
};

// Where HDF5 looks for a file that another one names: at an absolute path, in the folders of the
// environment variable, beside the file, in the working directory. The first that opens.
Beside open_beside(hid_t object, const std::string& name, const char* variable) {
  const fs::path primary = fs::absolute(file_name_of(object));
  std::vector<fs::path> places;
  fs::path relative = name;
  if (relative.is_absolute()) {
    places.push_back(relative);
    relative = relative.filename();
  }
  if (const char* folders = std::getenv(variable); folders != nullptr) {
    std::istringstream list(folders);
    for (std::string folder; std::getline(list, folder, ':');) {
      if (!folder.empty()) places.push_back(fs::path(folder) / relative);
    }
  }
  places.push_back(primary.parent_path() / relative);
  places.push_back(fs::absolute(relative));
  std::error_code ignored;
  if (const fs::path real = fs::canonical(primary, ignored); !ignored) {
    places.push_back(real.parent_path() / relative);
  }
  Beside result;
  for (const fs::path& place : places) {
    if (!fs::exists(place, ignored)) continue;
    const Handle access = file_access();
    Handle file(H5Fopen(place.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
    if (file) {
      result.file = std::move(file);
      return result;
    }
    if (result.why.empty()) {
      const std::string why = why_not_opened(place.string());
      result.why = place.string() + " " + why;
    }
  }
  if (result.why.empty()) {
    const fs::path expected =
        fs::path(name).is_absolute() ? fs::path(name) : primary.parent_path() / relative;
    result.why = "there is no file " + expected.lexically_normal().string();
  }
  return result;
}

// ---- links ----

std::string link_value(hid_t file, const std::string& name, const H5L_info_t& info) {
  std::string value(std::max<std::size_t>(info.u.val_size, 1), '\0');
  H5Lget_val(file, name.c_str(), value.data(), value.size(), H5P_DEFAULT);
  return value;
}

// What is being looked at, from link to link: they may lead in a circle.
class Followed {
 public:
  Followed(hid_t file, const std::string& name) {
    std::string place(
        static_cast<std::size_t>(std::max<ssize_t>(0, H5Fget_name(file, nullptr, 0))) + 1, '\0');
    H5Fget_name(file, place.data(), place.size());
    place += name.starts_with("/") ? name : "/" + name;
    again_ = std::find(places_.begin(), places_.end(), place) != places_.end();
    places_.push_back(std::move(place));
  }
  ~Followed() { places_.pop_back(); }
  Followed(const Followed&) = delete;
  Followed& operator=(const Followed&) = delete;
  bool again() const { return again_; }

 private:
  static thread_local std::vector<std::string> places_;
  bool again_ = false;
};
thread_local std::vector<std::string> Followed::places_;

std::string why_no_dataset(hid_t file, const std::string& name) {
  std::string why = trouble_with(file, name);
  return why.empty() ? "which has no dataset " + quoted(name) : why;
}

// Of a link that exists and leads nowhere.
std::string trouble_with_link(hid_t file, const std::string& name, const std::string& cause) {
  H5L_info_t info{};
  if (H5Lget_info(file, name.c_str(), &info, H5P_DEFAULT) < 0) return reason_of_cause(cause);
  if (info.type == H5L_TYPE_SOFT) {
    const std::string target = link_value(file, name, info).c_str();
    // A link beside the file's root is relative to its own group.
    const std::size_t slash = name.rfind('/');
    const bool relative = !target.starts_with("/") && slash != std::string::npos;
    const std::string whole = relative ? name.substr(0, slash + 1) + target : target;
    const std::string deeper = whole == name ? "" : trouble_with(file, whole);
    return "it is a link to " + quoted(target) +
           (deeper.empty() ? ", which does not exist in this file" : ": " + deeper);
  }
  if (info.type == H5L_TYPE_EXTERNAL) {
    const std::string value = link_value(file, name, info);
    const char *other = nullptr, *object = nullptr;
    if (H5Lunpack_elink_val(value.data(), value.size(), nullptr, &other, &object) < 0) {
      return reason_of_cause(cause);
    }
    const Beside beside = open_beside(file, other, "HDF5_EXT_PREFIX");
    return "it is a link to " + quoted(object) + " of " + quoted(other) + ": " +
           (beside.file ? why_no_dataset(beside.file.get(), object) : beside.why);
  }
  return reason_of_cause(cause);
}

// ---- selections ----

struct Axis {
  hsize_t start = 0, stride = 1, count = 1, block = 1;
};

// Indices along one axis, up to its extent.
std::vector<std::int64_t> indices_of(const Axis& axis, hsize_t extent) {
  std::vector<std::int64_t> indices;
  for (hsize_t i = 0; axis.count == H5S_UNLIMITED || i < axis.count; ++i) {
    const hsize_t first = axis.start + i * axis.stride;
    if (first >= extent) break;
    const hsize_t end =
        axis.block == H5S_UNLIMITED ? extent : std::min<hsize_t>(extent, first + axis.block);
    for (hsize_t k = first; k < end; ++k) indices.push_back(static_cast<std::int64_t>(k));
    if (axis.block == H5S_UNLIMITED || axis.stride == 0) break;
  }
  return indices;
}

// Entries over the first axes that a box touches, row-major.
std::vector<std::int64_t> entries_of(const std::vector<Axis>& box, const Sizes& shape,
                                     std::size_t axes) {
  std::vector<std::int64_t> entries{0};
  for (std::size_t axis = 0; axis < axes; ++axis) {
    const std::vector<std::int64_t> along = indices_of(box[axis], shape[axis]);
    std::vector<std::int64_t> all;
    all.reserve(entries.size() * along.size());
    for (const std::int64_t entry : entries) {
      for (const std::int64_t k : along) {
        all.push_back(entry * static_cast<std::int64_t>(shape[axis]) + k);
      }
    }
    entries = std::move(all);
  }
  return entries;
}

// Entries that a selection touches, in its order where that is the order of a plain box.
std::vector<std::int64_t> selected_entries(hid_t space, const Sizes& shape, std::size_t axes) {
  const std::size_t rank = shape.size();
  std::vector<Axis> box(rank);
  const auto whole = [&] {
    for (std::size_t axis = 0; axis < rank; ++axis) box[axis] = {0, 1, 1, shape[axis]};
    return entries_of(box, shape, axes);
  };
  switch (H5Sget_select_type(space)) {
    case H5S_SEL_NONE:
      return {};
    case H5S_SEL_HYPERSLABS:
      break;
    case H5S_SEL_POINTS: {
      Sizes low(rank), high(rank);
      if (H5Sget_select_bounds(space, low.data(), high.data()) < 0) return whole();
      for (std::size_t axis = 0; axis < rank; ++axis) {
        box[axis] = {low[axis], 1, 1, high[axis] - low[axis] + 1};
      }
      return entries_of(box, shape, axes);
    }
    default:
      return whole();
  }
  if (H5Sis_regular_hyperslab(space) > 0) {
    Sizes start(rank), stride(rank), count(rank), block(rank);
    if (H5Sget_regular_hyperslab(space, start.data(), stride.data(), count.data(), block.data()) <
        0) {
      return whole();
    }
    for (std::size_t axis = 0; axis < rank; ++axis) {
      box[axis] = {start[axis], stride[axis], count[axis], block[axis]};
    }
    return entries_of(box, shape, axes);
  }
  const hssize_t blocks = H5Sget_select_hyper_nblocks(space);
  if (blocks <= 0) return whole();
  Sizes corners(static_cast<std::size_t>(blocks) * 2 * rank);
  H5Sget_select_hyper_blocklist(space, 0, static_cast<hsize_t>(blocks), corners.data());
  std::set<std::int64_t> unique;
  for (std::size_t b = 0; b < static_cast<std::size_t>(blocks); ++b) {
    const hsize_t* low = &corners[2 * b * rank];
    const hsize_t* high = low + rank;
    for (std::size_t axis = 0; axis < rank; ++axis) {
      box[axis] = {low[axis], 1, 1, high[axis] - low[axis] + 1};
    }
    for (const std::int64_t entry : entries_of(box, shape, axes)) unique.insert(entry);
  }
  return {unique.begin(), unique.end()};
}

bool is_unlimited(hid_t space, std::size_t rank) {
  if (H5Sget_select_type(space) != H5S_SEL_HYPERSLABS || H5Sis_regular_hyperslab(space) <= 0) {
    return false;
  }
  Sizes start(rank), stride(rank), count(rank), block(rank);
  if (H5Sget_regular_hyperslab(space, start.data(), stride.data(), count.data(), block.data()) <
      0) {
    return false;
  }
  for (std::size_t axis = 0; axis < rank; ++axis) {
    if (count[axis] == H5S_UNLIMITED || block[axis] == H5S_UNLIMITED) return true;
  }
  return false;
}

Sizes shape_of(hid_t space) {
  const int rank = H5Sget_simple_extent_ndims(space);
  Sizes shape(static_cast<std::size_t>(std::max(rank, 0)));
  if (rank > 0) H5Sget_simple_extent_dims(space, shape.data(), nullptr);
  return shape;
}

hsize_t values_of(const Sizes& shape) {
  return std::accumulate(shape.begin(), shape.end(), hsize_t{1}, std::multiplies<>());
}

// ---- gaps ----

constexpr int kDeepest = 8;  // virtual datasets of virtual datasets

class GapFinder {
 public:
  GapFinder(hid_t dataset, std::size_t axes, int depth)
      : dataset_(dataset),
        depth_(depth),
        space_(H5Dget_space(dataset), H5Sclose),
        properties_(H5Dget_create_plist(dataset), H5Pclose),
        shape_(shape_of(space_.get())),
        axes_(std::min(axes, shape_.size())) {
    hsize_t entries = 1;
    for (std::size_t axis = 0; axis < axes_; ++axis) entries *= shape_[axis];
    gaps_.reason_of.assign(entries, Gaps::kNone);
  }

  Gaps find() {
    const bool empty = std::any_of(shape_.begin(), shape_.end(), [](hsize_t n) { return n == 0; });
    if (empty || gaps_.reason_of.empty()) return std::move(gaps_);
    switch (H5Pget_layout(properties_.get())) {
      case H5D_CHUNKED:
        look_for_chunks();
        break;
      case H5D_CONTIGUOUS:
        look_for_bytes();
        break;
      case H5D_VIRTUAL:
        look_for_sources();
        break;
      default:
        break;
    }
    return std::move(gaps_);
  }

  const Sizes& shape() const { return shape_; }

 private:
  void mark(std::int64_t entry, const std::string& reason, bool never_written = false) {
    std::int32_t& at = gaps_.reason_of[static_cast<std::size_t>(entry)];
    if (at != Gaps::kNone) return;
    const auto [found, is_new] =
        number_.try_emplace(reason, static_cast<std::int32_t>(gaps_.reasons.size()));
    if (is_new) {
      gaps_.reasons.push_back(reason);
      gaps_.never_written.push_back(never_written);
    }
    at = found->second;
  }

  void look_for_chunks() {
    const std::size_t rank = shape_.size();
    Sizes chunk(rank);
    if (H5Pget_chunk(properties_.get(), static_cast<int>(rank), chunk.data()) < 0) return;
    hsize_t expected = 1;
    for (std::size_t axis = 0; axis < rank; ++axis) {
      expected *= (shape_[axis] + chunk[axis] - 1) / chunk[axis];
    }
    hsize_t stored = 0;
    if (H5Dget_num_chunks(dataset_, space_.get(), &stored) < 0 || stored >= expected) return;
    Sizes offset(rank, 0);
    std::vector<Axis> box(rank);
    for (hsize_t k = 0; k < expected; ++k) {
      hsize_t bytes = 0;
      if (H5Dget_chunk_storage_size(dataset_, offset.data(), &bytes) < 0 || bytes == 0) {
        for (std::size_t axis = 0; axis < rank; ++axis)
          box[axis] = {offset[axis], 1, 1, chunk[axis]};
        for (const std::int64_t entry : entries_of(box, shape_, axes_)) {
          mark(entry, "never written", true);
        }
      }
      for (std::size_t axis = rank; axis-- > 0;) {
        offset[axis] += chunk[axis];
        if (offset[axis] < shape_[axis]) break;
        offset[axis] = 0;
      }
    }
  }

  void look_for_bytes() {
    const int files = H5Pget_external_count(properties_.get());
    if (files > 0) {
      look_into_raw_files(files);
      return;
    }
    H5D_space_status_t status{};
    if (H5Dget_space_status(dataset_, &status) < 0 || status != H5D_SPACE_STATUS_NOT_ALLOCATED) {
      return;
    }
    for (std::size_t k = 0; k < gaps_.reason_of.size(); ++k) {
      mark(static_cast<std::int64_t>(k), "never written", true);
    }
  }

  // Values may lie in plain files beside; HDF5 takes what such a file lacks for zeros.
  void look_into_raw_files(int files) {
    const Handle type(H5Dget_type(dataset_), H5Tclose);
    hsize_t entry_bytes = H5Tget_size(type.get());
    for (std::size_t axis = axes_; axis < shape_.size(); ++axis) entry_bytes *= shape_[axis];
    const hsize_t all = entry_bytes * gaps_.reason_of.size();
    hsize_t position = 0;
    for (int k = 0; k < files && position < all; ++k) {
      std::array<char, 4096> name{};
      off_t offset = 0;
      hsize_t size = 0;
      H5Pget_external(properties_.get(), static_cast<unsigned>(k), name.size() - 1, name.data(),
                      &offset, &size);
      const char* prefix = std::getenv("HDF5_EXTFILE_PREFIX");
      fs::path path = name.data();
      if (prefix != nullptr && path.is_relative()) path = fs::path(prefix) / path;
      std::error_code error;
      const auto bytes = static_cast<hsize_t>(fs::file_size(path, error));
      const hsize_t begin = static_cast<hsize_t>(offset);
      const hsize_t needed = std::min(size, all - position);
      const hsize_t there = error || bytes < begin ? 0 : std::min(bytes - begin, needed);
      const std::string reason = "the file with their values, " + fs::absolute(path).string() +
                                 (error ? ", is not there" : ", is too short");
      for (hsize_t entry = (position + there) / entry_bytes;
           there < needed && entry * entry_bytes < position + needed; ++entry) {
        mark(static_cast<std::int64_t>(entry), reason);
      }
      position += needed;
    }
  }

  // What a source dataset is like.
  struct Source {
    std::string why;  // it cannot be read
    Sizes shape;
    Gaps gaps;
  };

  Source open_source(const std::string& file_name, const std::string& dataset_name) const {
    Source source;
    Handle file;
    if (file_name == ".") {
      file = Handle(H5Iget_file_id(dataset_), H5Fclose);
    } else {
      Beside beside = open_beside(dataset_, file_name, "HDF5_VDS_PREFIX");
      if (!beside.file) {
        source.why = beside.why;
        return source;
      }
      file = std::move(beside.file);
    }
    const Handle dataset(H5Dopen2(file.get(), dataset_name.c_str(), link_access()), H5Dclose);
    if (!dataset) {
      const std::string why = trouble_with(file.get(), dataset_name);
      source.why =
          why.empty() ? file_name_of(file.get()) + " has no dataset " + quoted(dataset_name) : why;
      return source;
    }
    const Handle properties(H5Dget_create_plist(dataset.get()), H5Pclose);
    for (int i = 0; i < H5Pget_nfilters(properties.get()); ++i) {
      unsigned flags = 0;
      std::size_t values = 0;
      const H5Z_filter_t id = H5Pget_filter2(properties.get(), static_cast<unsigned>(i), &flags,
                                             &values, nullptr, 0, nullptr, nullptr);
      if (H5Zfilter_avail(id) > 0) continue;
      source.why = "it needs the HDF5 filter " + std::to_string(id) + " (" + filter_name(id) +
                   "), which is not installed: install " + filter_package(id);
      return source;
    }
    if (depth_ >= kDeepest) return source;
    const Handle space(H5Dget_space(dataset.get()), H5Sclose);
    source.shape = shape_of(space.get());
    const bool alike = source.shape.size() == shape_.size();
    source.gaps = GapFinder(dataset.get(), alike ? axes_ : 0, depth_ + 1).find();
    return source;
  }

  const Source& source(const std::string& file_name, const std::string& dataset_name) {
    const auto key = std::make_pair(file_name, dataset_name);
    const auto found = sources_.find(key);
    if (found != sources_.end()) return found->second;
    return sources_.emplace(key, open_source(file_name, dataset_name)).first->second;
  }

  // "scan_%b.h5" for its block: printf-style names of unlimited mappings.
  static std::string block_name(const std::string& name, std::int64_t block) {
    std::string result;
    for (std::size_t i = 0; i < name.size(); ++i) {
      if (name[i] == '%' && i + 1 < name.size()) {
        ++i;
        result += name[i] == 'b' ? std::to_string(block) : std::string(1, name[i]);
      } else {
        result += name[i];
      }
    }
    return result;
  }

  void look_for_sources() {
    std::size_t mappings = 0;
    H5Pget_virtual_count(properties_.get(), &mappings);
    std::vector<bool> named(gaps_.reason_of.size(), false);
    for (std::size_t k = 0; k < mappings; ++k) look_for_source(k, named);
    for (std::size_t entry = 0; entry < named.size(); ++entry) {
      if (!named[entry]) {
        mark(static_cast<std::int64_t>(entry), "the virtual dataset names no source for them");
      }
    }
  }

  std::string virtual_name(std::size_t k, ssize_t (*get)(hid_t, size_t, char*, size_t)) const {
    const ssize_t size = get(properties_.get(), k, nullptr, 0);
    std::string name(static_cast<std::size_t>(std::max<ssize_t>(size, 0)) + 1, '\0');
    get(properties_.get(), k, name.data(), name.size());
    name.pop_back();
    return name;
  }

  void look_for_source(std::size_t k, std::vector<bool>& named) {
    const std::string file_name = virtual_name(k, H5Pget_virtual_filename);
    const std::string dataset_name = virtual_name(k, H5Pget_virtual_dsetname);
    const Handle here(H5Pget_virtual_vspace(properties_.get(), k), H5Sclose);
    const Handle there(H5Pget_virtual_srcspace(properties_.get(), k), H5Sclose);
    const std::vector<std::int64_t> entries = selected_entries(here.get(), shape_, axes_);
    for (const std::int64_t entry : entries) named[static_cast<std::size_t>(entry)] = true;
    const Sizes source_shape = shape_of(there.get());
    if (is_unlimited(here.get(), shape_.size()) &&
        !is_unlimited(there.get(), source_shape.size())) {
      look_for_blocks(here.get(), file_name, dataset_name);
      return;
    }
    const hssize_t wanted = H5Sget_select_npoints(here.get());
    judge(entries, source(file_name, dataset_name), file_name, dataset_name, there.get(),
          static_cast<hsize_t>(std::max<hssize_t>(wanted, 0)));
  }

  // Every block of an unlimited mapping has a source of its own.
  void look_for_blocks(hid_t here, const std::string& file_name, const std::string& dataset_name) {
    const std::size_t rank = shape_.size();
    Sizes start(rank), stride(rank), count(rank), block(rank);
    H5Sget_regular_hyperslab(here, start.data(), stride.data(), count.data(), block.data());
    for (std::size_t axis = 0; axis < rank; ++axis) {
      if (count[axis] != H5S_UNLIMITED) continue;
      for (std::int64_t b = 0;; ++b) {
        std::vector<Axis> box(rank);
        for (std::size_t i = 0; i < rank; ++i) box[i] = {start[i], stride[i], count[i], block[i]};
        box[axis].start += static_cast<hsize_t>(b) * stride[axis];
        box[axis].count = 1;
        if (box[axis].start >= shape_[axis]) return;
        const std::string file = block_name(file_name, b), dataset = block_name(dataset_name, b);
        judge(entries_of(box, shape_, axes_), source(file, dataset), file, dataset, -1, 0);
      }
    }
  }

  // `there`: what of the source is taken, `wanted` values; -1: all of it.
  void judge(const std::vector<std::int64_t>& entries, const Source& from,
             const std::string& file_name, const std::string& dataset_name, hid_t there,
             hsize_t wanted) {
    const std::string whence = "their source " +
                               quoted(file_name == "." ? dataset_name : file_name) +
                               (file_name == "." ? "" : " (dataset " + quoted(dataset_name) + ")");
    if (!from.why.empty()) {
      for (const std::int64_t entry : entries) mark(entry, whence + " cannot be read: " + from.why);
      return;
    }
    std::vector<std::int64_t> taken;
    const bool alike = from.shape.size() == shape_.size();
    const std::size_t axes = alike ? axes_ : 0;
    if (there >= 0) {
      const Sizes declared = shape_of(there);
      Sizes low(declared.size()), high(declared.size());
      const bool all = H5Sget_select_type(there) == H5S_SEL_ALL;
      const bool bounded = !all && declared.size() == from.shape.size() &&
                           !is_unlimited(there, declared.size()) &&
                           H5Sget_select_bounds(there, low.data(), high.data()) >= 0;
      bool too_small = all && values_of(from.shape) < wanted;
      for (std::size_t axis = 0; bounded && axis < high.size(); ++axis) {
        too_small = too_small || high[axis] >= from.shape[axis];
      }
      if (too_small) {
        for (const std::int64_t entry : entries) {
          mark(entry, whence + " has the shape " + words::shape(from.shape) +
                          ", less than what is taken from it");
        }
        return;
      }
      if (!from.shape.empty()) taken = selected_entries(there, from.shape, axes);
    } else {
      taken.resize(from.gaps.reason_of.size());
      std::iota(taken.begin(), taken.end(), 0);
    }
    if (!from.gaps.any()) return;
    const auto reason_of = [&](std::int64_t entry) {
      return from.gaps.reason_of[static_cast<std::size_t>(entry)];
    };
    const auto reason = [&](std::int32_t number) {
      return "in " + whence + ": " + from.gaps.reasons[static_cast<std::size_t>(number)];
    };
    const bool one_by_one = alike && axes > 0 && taken.size() == entries.size();
    for (std::size_t k = 0; k < taken.size(); ++k) {
      const std::int32_t number = reason_of(taken[k]);
      if (number == Gaps::kNone) continue;
      const bool never = from.gaps.never_written[static_cast<std::size_t>(number)];
      if (one_by_one) {
        mark(entries[k], reason(number), never);
      } else {
        for (const std::int64_t entry : entries) mark(entry, reason(number), never);
      }
    }
  }

  hid_t dataset_;
  int depth_;
  Handle space_, properties_;
  Sizes shape_;
  std::size_t axes_;
  Gaps gaps_;
  std::map<std::string, std::int32_t> number_;
  std::map<std::pair<std::string, std::string>, Source> sources_;
};

// ---- listing ----

struct Lister {
  hid_t file;
  std::size_t limit;
  std::vector<NamedDataset> found;
  std::set<std::tuple<unsigned long, haddr_t>> seen;  // groups: links may lead in circles

  void walk(const std::string& group) {
    const Handle here(H5Gopen2(file, group.c_str(), H5P_DEFAULT), H5Gclose);
    H5O_info_t info{};
    if (!here || H5Oget_info2(here.get(), &info, H5O_INFO_BASIC) < 0 ||
        !seen.emplace(info.fileno, info.addr).second) {
      return;
    }
    std::vector<std::string> names;
    H5Literate(
        here.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr,
        [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
          static_cast<std::vector<std::string>*>(out)->emplace_back(name);
          return 0;
        },
        &names);
    for (const std::string& name : names) {
      if (found.size() >= limit) return;
      const std::string whole = group == "/" ? name : group + "/" + name;
      const Handle object(H5Oopen(file, whole.c_str(), link_access()), H5Oclose);
      const H5I_type_t type = object ? H5Iget_type(object.get()) : H5I_BADID;
      if (type == H5I_GROUP) {
        walk(whole);
      } else if (type == H5I_DATASET) {
        found.push_back({whole, ""});
      } else if (!object) {
        found.push_back({whole, trouble_with(file, whole)});
      }
    }
  }
};

}  // namespace

std::string why_not_opened(const std::string& path) {
  const std::string cause = hdf5_cause();
  std::error_code error;
  if (fs::is_directory(path, error)) return "is a folder, not an HDF5 file";
  if (::access(path.c_str(), R_OK) != 0) {
    return std::string("cannot be read: ") + std::strerror(errno);
  }
  const std::uintmax_t size = fs::file_size(path, error);
  if (!error && size == 0) return "is an empty file";
  if (contains(cause, "already open for") || contains(cause, "consistency flags")) {
    return "is marked as being written: wait until the program that writes it has closed it; "
           "where that one has crashed, copy what it wrote into a new file";
  }
  if (contains(cause, "truncated file")) {
    // "truncated file: eof = 2048, sblock->base_addr = 0, stored_eof = 5000"
    const std::size_t at = cause.rfind("= ");
    const std::string stored = at == std::string::npos ? "" : cause.substr(at + 2);
    return "is cut off: it has " + std::to_string(size) + " bytes of " +
           stored.substr(0, stored.find_first_not_of("0123456789")) +
           " (copy it again; or its writer has not finished)";
  }
  if (H5Fis_hdf5(path.c_str()) == 0) return "is not an HDF5 file";
  if (contains(cause, "version")) return "cannot be opened: " + newer_words();
  return "cannot be opened as an HDF5 file" + cause;
}

std::string trouble_with(std::int64_t file, const std::string& name) {
  silence();
  const Followed here(file, name);
  if (here.again()) return "links that lead in a circle";
  std::vector<std::string> parts;
  std::istringstream in(name);
  for (std::string part; std::getline(in, part, '/');) {
    if (!part.empty() && part != ".") parts.push_back(part);
  }
  std::string path;
  for (std::size_t k = 0; k < parts.size(); ++k) {
    path += (k == 0 ? (name.starts_with("/") ? "/" : "") : "/") + parts[k];
    if (H5Lexists(file, path.c_str(), H5P_DEFAULT) <= 0) return "";
    const Handle object(H5Oopen(file, path.c_str(), link_access()), H5Oclose);
    if (!object) return trouble_with_link(file, path, hdf5_cause());
    if (k + 1 < parts.size()) continue;
    const H5I_type_t type = H5Iget_type(object.get());
    if (type == H5I_GROUP) {
      std::string names;
      for (const NamedDataset& one : list_datasets(file, path, 8)) {
        names += (names.empty() ? "" : ", ") + one.name;
      }
      return "it is a group" + (names.empty() ? ", without datasets" : ", with " + names);
    }
    if (type != H5I_DATASET) return "it is a type, not a dataset";
    const Handle dataset(H5Dopen2(file, path.c_str(), link_access()), H5Dclose);
    if (!dataset) return reason_of_cause(hdf5_cause());
  }
  return "";
}

Gaps find_gaps(std::int64_t dataset, int axes) {
  silence();
  return GapFinder(dataset, static_cast<std::size_t>(axes), 0).find();
}

std::vector<NamedDataset> list_datasets(std::int64_t file, const std::string& group,
                                        std::size_t limit) {
  silence();
  Lister lister{file, limit, {}, {}};
  lister.walk(group);
  return lister.found;
}

}  // namespace ptyle::driver::hdf5
