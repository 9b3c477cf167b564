#include "driver/io/hdf5.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <numeric>
#include <utility>

#include <hdf5.h>

#include <ATen/ops/empty.h>

#include "driver/errors.h"
#include "driver/io/hdf5_device.h"
#include "driver/io/hdf5_handle.h"
#include "driver/words.h"

namespace ptyle::driver::hdf5 {

// Every file is closed by its owner. Where even that failed, the library would try again when the
// program ends, and crash.
[[maybe_unused]] const bool kNothingAtExit = H5dont_atexit() >= 0;

std::string hdf5_cause() {
  // The innermost message of the error stack names the cause.
  std::string cause;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_DOWNWARD,
      [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
        if (error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &cause);
  return cause.empty() ? cause : " (HDF5: " + cause + ")";
}

Handle file_access() {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  // Locks fail on many shared file systems, and nobody writes a file that we read.
  H5Pset_file_locking(access.get(), false, true);
  return access;
}

hid_t link_access() {
  // Made once, and left to the library's end.
  static const hid_t access = [] {
    const hid_t made = H5Pcreate(H5P_DATASET_ACCESS);
    const Handle file = file_access();
    H5Pset_elink_fapl(made, file.get());
    return made;
  }();
  return access;
}

std::string filter_name(H5Z_filter_t id) {
  switch (id) {
    case H5Z_FILTER_DEFLATE:
      return "gzip";
    case H5Z_FILTER_SHUFFLE:
      return "shuffle";
    case H5Z_FILTER_FLETCHER32:
      return "fletcher32";
    case H5Z_FILTER_SZIP:
      return "szip";
    case H5Z_FILTER_NBIT:
      return "nbit";
    case H5Z_FILTER_SCALEOFFSET:
      return "scale-offset";
    case 307:
      return "bzip2";
    case 32000:
      return "LZF";
    case 32001:
      return "Blosc";
    case 32004:
      return "LZ4";
    case 32008:
      return "bitshuffle";
    case 32013:
      return "ZFP";
    case 32015:
      return "Zstandard";
    case 32026:
      return "Blosc2";
    default:
      return "filter " + std::to_string(id);
  }
}

// Names of Debian's packages.
std::string filter_package(int id) {
  switch (id) {
    case 307:
    case 32004:
      return "the package hdf5-filter-plugin";
    case 32000:
      return "the package hdf5-plugin-lzf";
    case 32001:
      return "the package hdf5-filter-plugin-blosc-serial";
    case 32008:
      return "the package bitshuffle";
    case 32013:
      return "the package hdf5-filter-plugin-zfp-serial";
    default:
      return "hdf5plugin from PyPI, and set HDF5_PLUGIN_PATH to its folder \"plugins\"";
  }
}

namespace {

static_assert(sizeof(hid_t) == sizeof(std::int64_t));

std::vector<std::int64_t> to_int64(const std::vector<hsize_t>& sizes) {
  return {sizes.begin(), sizes.end()};
}
std::vector<hsize_t> to_hsize(const std::vector<std::int64_t>& sizes) {
  return {sizes.begin(), sizes.end()};
}

// A compound of exactly two floats of one size: a complex number as h5py, MATLAB and others write.
bool is_complex(hid_t type) {
  if (H5Tget_class(type) != H5T_COMPOUND || H5Tget_nmembers(type) != 2) return false;
  std::array<std::size_t, 2> sizes{};
  for (unsigned member = 0; member < 2; ++member) {
    const Handle member_type(H5Tget_member_type(type, member), H5Tclose);
    if (H5Tget_class(member_type.get()) != H5T_FLOAT) return false;
    sizes[member] = H5Tget_size(member_type.get());
  }
  return sizes[0] == sizes[1] && (sizes[0] == 4 || sizes[0] == 8);
}

// The tensor type that a stored type is read as; kUndefined where there is none.
at::ScalarType tensor_type(hid_t type) {
  const std::size_t size = H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return size <= 4 ? at::kFloat : size == 8 ? at::kDouble : at::ScalarType::Undefined;
    case H5T_INTEGER: {
      const bool is_signed = H5Tget_sign(type) == H5T_SGN_2;
      switch (size) {
        case 1:
          return is_signed ? at::kChar : at::kByte;
        case 2:
          return is_signed ? at::kShort : at::kUInt16;
        case 4:
          return is_signed ? at::kInt : at::kUInt32;
        case 8:
          return is_signed ? at::kLong : at::kUInt64;
        default:
          return at::ScalarType::Undefined;
      }
    }
    case H5T_BITFIELD:
      return size == 1 ? at::kByte : at::ScalarType::Undefined;
    case H5T_ENUM:  // h5py's bool
      return size == 1 ? at::kByte : at::ScalarType::Undefined;
    case H5T_COMPOUND: {
      if (!is_complex(type)) return at::ScalarType::Undefined;
      const Handle member(H5Tget_member_type(type, 0), H5Tclose);
      return H5Tget_size(member.get()) == 4 ? at::kComplexFloat : at::kComplexDouble;
    }
    default:
      return at::ScalarType::Undefined;
  }
}

std::string type_words(hid_t type) {
  const std::string bits = std::to_string(8 * H5Tget_size(type));
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return "float" + bits;
    case H5T_INTEGER:
      return (H5Tget_sign(type) == H5T_SGN_2 ? "int" : "uint") + bits;
    case H5T_ENUM:
      return H5Tget_size(type) == 1 ? "bool" : "an enumeration";
    case H5T_BITFIELD:
      return "bits" + bits;
    case H5T_COMPOUND:
      return is_complex(type) ? "complex" + bits : "a compound";
    case H5T_STRING:
      return "a string";
    default:
      return "another type";
  }
}

hid_t native_type(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return H5T_NATIVE_UINT8;
    case at::kChar:
      return H5T_NATIVE_INT8;
    case at::kShort:
      return H5T_NATIVE_INT16;
    case at::kUInt16:
      return H5T_NATIVE_UINT16;
    case at::kInt:
      return H5T_NATIVE_INT32;
    case at::kUInt32:
      return H5T_NATIVE_UINT32;
    case at::kLong:
      return H5T_NATIVE_INT64;
    case at::kUInt64:
      return H5T_NATIVE_UINT64;
    case at::kFloat:
    case at::kComplexFloat:
      return H5T_NATIVE_FLOAT;
    case at::kDouble:
    case at::kComplexDouble:
      return H5T_NATIVE_DOUBLE;
    default:
      return -1;
  }
}

bool is_complex(at::ScalarType type) {
  return type == at::kComplexFloat || type == at::kComplexDouble;
}

// The type in memory of a tensor, with the member names of `stored` (h5py's r and i by default).
Handle memory_type(at::ScalarType type, hid_t stored = -1) {
  if (stored >= 0 && H5Tget_class(stored) == H5T_ENUM) {
    return {H5Tget_native_type(stored, H5T_DIR_ASCEND), H5Tclose};
  }
  if (stored >= 0 && H5Tget_class(stored) == H5T_BITFIELD) return {H5Tcopy(stored), H5Tclose};
  if (!is_complex(type)) return {H5Tcopy(native_type(type)), H5Tclose};
  std::array<std::string, 2> names = {"r", "i"};
  if (stored >= 0) {
    for (unsigned member = 0; member < 2; ++member) {
      char* name = H5Tget_member_name(stored, member);
      names[member] = name;
      H5free_memory(name);
    }
  }
  const hid_t part = native_type(type);
  const std::size_t size = H5Tget_size(part);
  Handle compound(H5Tcreate(H5T_COMPOUND, 2 * size), H5Tclose);
  H5Tinsert(compound.get(), names[0].c_str(), 0, part);
  H5Tinsert(compound.get(), names[1].c_str(), size, part);
  return compound;
}

std::int64_t product(const std::vector<std::int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

// ---- the file ----

File::File(std::string path, std::int64_t id, std::unique_ptr<Output> output)
    : path_(std::move(path)), id_(id), output_(std::move(output)) {}

struct File::Opened {
  std::string name;
  DatasetInfo info;
  Handle dataset, memory_type;
};

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      id_(std::exchange(other.id_, -1)),
      output_(std::move(other.output_)),
      opened_(std::move(other.opened_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(id_, other.id_);
  std::swap(output_, other.output_);
  std::swap(opened_, other.opened_);
  return *this;
}

File::~File() {
  opened_.reset();
  if (id_ >= 0) H5Fclose(id_);
}

void File::fail(const std::string& what) const {
  if (writable()) {
    require();  // the system's reason comes before the library's
    throw RunError(path_ + ": " + what);
  }
  throw DataError(path_ + ": " + what);
}

File File::open(const std::string& path) {
  silence();
  std::error_code status;
  if (!std::filesystem::exists(path, status)) throw DataError(path + ": there is no such file");
  const Handle access = file_access();
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (id < 0) throw DataError(path + ": " + why_not_opened(path));
  return File(path, id, nullptr);
}

File File::create(const std::string& path) {
  silence();
  const Handle access = file_access();
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  auto output = std::make_unique<Output>(path);
  if (!lead_to(access.get(), *output)) {
    throw RunError(path + ": cannot be created" + hdf5_cause());
  }
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get());
  if (id < 0) throw RunError(path + ": cannot be created" + hdf5_cause());
  return File(path, id, std::move(output));
}

void File::require() const {
  if (output_) output_->require();
}

void File::attempt(const std::function<void()>& write) {
  if (output_ && output_->failed()) return;
  try {
    write();
  } catch (const WriteError&) {
    // close() says it.
  }
}

void File::close() {
  if (id_ < 0) return;
  if (H5Fclose(std::exchange(id_, -1)) < 0) fail("cannot be closed" + hdf5_cause());
  if (output_) output_->commit();
}

bool File::is_dataset(const std::string& name) const {
  if (name.empty()) return false;
  silence();
  const Handle object(H5Oopen(id_, name.c_str(), link_access()), H5Oclose);
  return object && H5Iget_type(object.get()) == H5I_DATASET;
}

bool File::is_group(const std::string& name) const {
  if (name.empty()) return false;
  silence();
  const Handle object(H5Oopen(id_, name.c_str(), link_access()), H5Oclose);
  return object && H5Iget_type(object.get()) == H5I_GROUP;
}

std::vector<std::string> File::dataset_names(std::size_t limit) const {
  std::vector<std::string> names;
  for (NamedDataset& one : list_datasets(id_, "/", limit)) {
    if (one.trouble.empty()) names.push_back(std::move(one.name));
  }
  return names;
}

std::string File::contents() const {
  constexpr std::size_t kMost = 12;
  std::string words;
  for (const NamedDataset& one : list_datasets(id_, "/", kMost)) {
    words += (words.empty() ? "" : ", ") + one.name;
    if (!one.trouble.empty()) words += " (which cannot be opened)";
  }
  return words.empty() ? "none" : words;
}

std::string File::trouble(const std::string& name) const { return trouble_with(id_, name); }

Gaps File::gaps(const std::string& name, int axes) const {
  return find_gaps(opened(name)->dataset.get(), axes);
}

DatasetInfo File::info(const std::string& name) const {
  silence();
  if (!is_dataset(name)) {
    if (const std::string why = trouble(name); !why.empty()) {
      fail("cannot open dataset \"" + name + "\": " + why);
    }
    fail("has no dataset \"" + name + "\"; it has: " + contents());
  }
  const Handle dataset(H5Dopen2(id_, name.c_str(), link_access()), H5Dclose);
  if (!dataset) fail("cannot open dataset \"" + name + "\"" + hdf5_cause());
  const Handle space(H5Dget_space(dataset.get()), H5Sclose);
  const Handle type(H5Dget_type(dataset.get()), H5Tclose);
  const Handle properties(H5Dget_create_plist(dataset.get()), H5Pclose);
  DatasetInfo result;
  const int rank = H5Sget_simple_extent_ndims(space.get());
  std::vector<hsize_t> sizes(static_cast<std::size_t>(std::max(rank, 0)));
  if (rank > 0) H5Sget_simple_extent_dims(space.get(), sizes.data(), nullptr);
  result.shape = to_int64(sizes);
  result.type = tensor_type(type.get());
  result.stored_type = type_words(type.get());
  if (result.type == at::ScalarType::Undefined) {
    fail("dataset \"" + name + "\" must hold numbers, got " + result.stored_type);
  }
  if (H5Pget_layout(properties.get()) == H5D_CHUNKED) {
    H5Pget_chunk(properties.get(), rank, sizes.data());
    result.chunk = to_int64(sizes);
  }
  for (int i = 0; i < H5Pget_nfilters(properties.get()); ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    const H5Z_filter_t id = H5Pget_filter2(properties.get(), static_cast<unsigned>(i), &flags,
                                           &values, nullptr, 0, nullptr, nullptr);
    result.filters.push_back({id, filter_name(id), H5Zfilter_avail(id) > 0});
  }
  return result;
}

std::shared_ptr<const File::Opened> File::opened(const std::string& name) const {
  if (opened_ && opened_->name == name) return opened_;
  DatasetInfo known = info(name);
  for (const Filter& filter : known.filters) {
    if (!filter.available) {
      fail("dataset \"" + name + "\" needs the HDF5 filter " + std::to_string(filter.id) + " (" +
           filter.name + "), which is not installed: install " + filter_package(filter.id));
    }
  }
  Handle dataset(H5Dopen2(id_, name.c_str(), link_access()), H5Dclose);
  const Handle stored(H5Dget_type(dataset.get()), H5Tclose);
  Handle type = memory_type(known.type, stored.get());
  auto result = std::make_shared<const Opened>(
      Opened{name, std::move(known), std::move(dataset), std::move(type)});
  if (!writable()) opened_ = result;
  return result;
}

at::Tensor File::read_block(const std::string& name, const std::vector<std::int64_t>* start,
                            const std::vector<std::int64_t>* count) const {
  silence();
  const std::shared_ptr<const Opened> at = opened(name);
  const DatasetInfo& known = at->info;
  const Handle &dataset = at->dataset, &type = at->memory_type;
  const std::vector<std::int64_t>& shape = count != nullptr ? *count : known.shape;
  if (start != nullptr) {
    bool inside = start->size() == known.shape.size() && shape.size() == known.shape.size();
    for (std::size_t axis = 0; inside && axis < shape.size(); ++axis) {
      inside = (*start)[axis] >= 0 && shape[axis] >= 0 &&
               (*start)[axis] <= known.shape[axis] - shape[axis];
    }
    if (!inside) {
      fail("dataset \"" + name + "\" has no " + words::shape(shape) + " at " +
           words::shape(*start) + ": its shape is " + words::shape(known.shape));
    }
  }
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(known.type));
  if (tensor.numel() == 0) return tensor;

  herr_t status = -1;
  if (start == nullptr) {
    status = H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.data_ptr());
  } else {
    const Handle file_space(H5Dget_space(dataset.get()), H5Sclose);
    const std::vector<hsize_t> corner = to_hsize(*start);
    const std::vector<hsize_t> extent = to_hsize(shape);
    H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, corner.data(), nullptr, extent.data(),
                        nullptr);
    const Handle memory_space(
        H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
    status = H5Dread(dataset.get(), type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT,
                     tensor.data_ptr());
  }
  if (status < 0) fail("cannot read dataset \"" + name + "\"" + hdf5_cause());
  return tensor;
}

at::Tensor File::read(const std::string& name) const {
  if (!writable()) {
    if (const Gaps holes = gaps(name, 0); holes.any()) {
      fail("dataset \"" + name + "\" has values that are not stored: " + holes.reasons[0]);
    }
  }
  return read_block(name, nullptr, nullptr);
}

at::Tensor File::read_area(const std::string& name, const std::vector<std::int64_t>& start,
                           const std::vector<std::int64_t>& count) const {
  return read_block(name, &start, &count);
}

void File::create_group(const std::string& name) {
  silence();
  if (name.empty() || name == "/" || is_group(name)) return;
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links.get(), 1);
  const Handle group(H5Gcreate2(id_, name.c_str(), links.get(), H5P_DEFAULT, H5P_DEFAULT),
                     H5Gclose);
  if (!group) fail("cannot create group \"" + name + "\"" + hdf5_cause());
}

void File::create_dataset(const std::string& name, const std::vector<std::int64_t>& shape,
                          at::ScalarType type, const WriteOptions& options) {
  silence();
  if (native_type(type) < 0) {
    fail("cannot write \"" + name + "\" as " + std::string(c10::toString(type)));
  }
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links.get(), 1);
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const std::vector<hsize_t> extent = to_hsize(shape);
  std::vector<std::int64_t> chunk = options.chunk;
  // HDF5 knows no chunks of nothing: an empty dataset is stored contiguously.
  const bool empty = shape.empty() || product(shape) == 0;
  if (options.gzip > 0 && chunk.empty() && !empty) {
    chunk = shape;
    const auto element = static_cast<std::int64_t>(c10::elementSize(type));
    for (std::int64_t& size : chunk) {
      const std::int64_t rest = product(chunk) / size;
      size = std::clamp<std::int64_t>((std::int64_t{1} << 20) / (rest * element), 1, size);
    }
  }
  if (!chunk.empty() && !empty) {
    for (std::size_t i = 0; i < chunk.size(); ++i) chunk[i] = std::min(chunk[i], shape[i]);
    H5Pset_chunk(properties.get(), static_cast<int>(chunk.size()), to_hsize(chunk).data());
    if (options.gzip > 0) {
      H5Pset_shuffle(properties.get());
      H5Pset_deflate(properties.get(), static_cast<unsigned>(std::min(options.gzip, 9)));
    }
  }
  const Handle space(
      shape.empty() ? H5Screate(H5S_SCALAR)
                    : H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr),
      H5Sclose);
  const Handle stored = memory_type(type);
  const Handle dataset(H5Dcreate2(id_, name.c_str(), stored.get(), space.get(), links.get(),
                                  properties.get(), H5P_DEFAULT),
                       H5Dclose);
  if (!dataset) fail("cannot create dataset \"" + name + "\"" + hdf5_cause());
}

void File::write(const std::string& name, const at::Tensor& tensor, const WriteOptions& options) {
  at::Tensor dense = tensor.detach().cpu();
  if (dense.scalar_type() == at::kBool) dense = dense.to(at::kByte);
  dense = dense.resolve_conj().resolve_neg().contiguous();
  create_dataset(name, dense.sizes().vec(), dense.scalar_type(), options);
  if (dense.numel() == 0) return;
  const Handle dataset(H5Dopen2(id_, name.c_str(), link_access()), H5Dclose);
  const Handle type = memory_type(dense.scalar_type());
  if (H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, dense.data_ptr()) < 0) {
    fail("cannot write dataset \"" + name + "\"" + hdf5_cause());
  }
}

void File::write_rows(const std::string& name, std::int64_t first, const at::Tensor& rows) {
  std::vector<std::int64_t> start(static_cast<std::size_t>(std::max<std::int64_t>(1, rows.dim())));
  start[0] = first;
  write_area(name, start, rows);
}

void File::write_area(const std::string& name, const std::vector<std::int64_t>& start,
                      const at::Tensor& area) {
  const DatasetInfo known = info(name);
  const at::Tensor dense = area.detach().cpu().resolve_conj().resolve_neg().contiguous();
  const std::vector<std::int64_t> shape = dense.sizes().vec();
  bool inside = !shape.empty() && shape.size() == known.shape.size() &&
                start.size() == shape.size() && dense.scalar_type() == known.type;
  for (std::size_t axis = 0; inside && axis < shape.size(); ++axis) {
    inside = start[axis] >= 0 && start[axis] <= known.shape[axis] - shape[axis];
  }
  if (!inside) {
    fail("cannot write " + words::shape(shape) + " at " + words::shape(start) + " of dataset \"" +
         name + "\", whose shape is " + words::shape(known.shape));
  }
  if (dense.numel() == 0) return;
  const Handle dataset(H5Dopen2(id_, name.c_str(), link_access()), H5Dclose);
  const Handle file_space(H5Dget_space(dataset.get()), H5Sclose);
  const std::vector<hsize_t> corner = to_hsize(start), extent = to_hsize(shape);
  H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, corner.data(), nullptr, extent.data(),
                      nullptr);
  const Handle memory_space(
      H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
  const Handle type = memory_type(known.type);
  if (H5Dwrite(dataset.get(), type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT,
               dense.data_ptr()) < 0) {
    fail("cannot write dataset \"" + name + "\"" + hdf5_cause());
  }
}

// ---- attributes ----

namespace {

// Replaces an attribute of the same name. Returns whether all went well.
bool write_attribute(hid_t file, const std::string& object, const std::string& name, hid_t type,
                     hid_t space, const void* data) {
  silence();
  const Handle owner(H5Oopen(file, object.c_str(), link_access()), H5Oclose);
  if (!owner) return false;
  if (H5Aexists(owner.get(), name.c_str()) > 0) H5Adelete(owner.get(), name.c_str());
  const Handle attribute(
      H5Acreate2(owner.get(), name.c_str(), type, space, H5P_DEFAULT, link_access()), H5Aclose);
  return attribute && H5Awrite(attribute.get(), type, data) >= 0;
}

Handle scalar_space() { return {H5Screate(H5S_SCALAR), H5Sclose}; }
Handle list_space(std::size_t size) {
  const hsize_t extent = size;
  return {H5Screate_simple(1, &extent, nullptr), H5Sclose};
}

}  // namespace

void File::set_attribute(const std::string& object, const std::string& name,
                         const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  // A fixed length of 0 does not exist in HDF5.
  H5Tset_size(type.get(), value.size() + 1);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  if (!write_attribute(id_, object, name, type.get(), scalar_space().get(), value.c_str())) {
    fail("cannot write attribute \"" + name + "\" of \"" + object + "\"" + hdf5_cause());
  }
}

void File::set_attribute(const std::string& object, const std::string& name, const char* value) {
  set_attribute(object, name, std::string(value));
}

void File::set_attribute(const std::string& object, const std::string& name, double value) {
  if (!write_attribute(id_, object, name, H5T_NATIVE_DOUBLE, scalar_space().get(), &value)) {
    fail("cannot write attribute \"" + name + "\" of \"" + object + "\"" + hdf5_cause());
  }
}

void File::set_attribute(const std::string& object, const std::string& name, std::int64_t value) {
  if (!write_attribute(id_, object, name, H5T_NATIVE_INT64, scalar_space().get(), &value)) {
    fail("cannot write attribute \"" + name + "\" of \"" + object + "\"" + hdf5_cause());
  }
}

void File::set_attribute(const std::string& object, const std::string& name,
                         const std::vector<double>& values) {
  if (!write_attribute(id_, object, name, H5T_NATIVE_DOUBLE, list_space(values.size()).get(),
                       values.data())) {
    fail("cannot write attribute \"" + name + "\" of \"" + object + "\"" + hdf5_cause());
  }
}

void File::set_attribute(const std::string& object, const std::string& name,
                         const std::vector<std::int64_t>& values) {
  if (!write_attribute(id_, object, name, H5T_NATIVE_INT64, list_space(values.size()).get(),
                       values.data())) {
    fail("cannot write attribute \"" + name + "\" of \"" + object + "\"" + hdf5_cause());
  }
}

bool File::has_attribute(const std::string& object, const std::string& name) const {
  silence();
  return H5Aexists_by_name(id_, object.c_str(), name.c_str(), link_access()) > 0;
}

std::string File::string_attribute(const std::string& object, const std::string& name) const {
  silence();
  const Handle attribute(
      H5Aopen_by_name(id_, object.c_str(), name.c_str(), H5P_DEFAULT, link_access()), H5Aclose);
  if (!attribute) fail("\"" + object + "\" has no attribute \"" + name + "\"");
  const Handle type(H5Aget_type(attribute.get()), H5Tclose);
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  if (H5Tget_class(type.get()) != H5T_STRING || H5Sget_simple_extent_npoints(space.get()) != 1) {
    fail("attribute \"" + name + "\" of \"" + object + "\" must be one string");
  }
  if (H5Tis_variable_str(type.get()) > 0) {
    char* text = nullptr;
    if (H5Aread(attribute.get(), type.get(), &text) < 0) {
      fail("cannot read attribute \"" + name + "\" of \"" + object + "\"" + hdf5_cause());
    }
    std::string result = text == nullptr ? "" : text;
    H5Dvlen_reclaim(type.get(), space.get(), H5P_DEFAULT, &text);
    return result;
  }
  std::string result(H5Tget_size(type.get()), '\0');
  if (H5Aread(attribute.get(), type.get(), result.data()) < 0) {
    fail("cannot read attribute \"" + name + "\" of \"" + object + "\"" + hdf5_cause());
  }
  return result.c_str();  // fixed strings are padded with zeros
}

std::vector<double> File::numbers_attribute(const std::string& object,
                                            const std::string& name) const {
  silence();
  const Handle attribute(
      H5Aopen_by_name(id_, object.c_str(), name.c_str(), H5P_DEFAULT, link_access()), H5Aclose);
  if (!attribute) fail("\"" + object + "\" has no attribute \"" + name + "\"");
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  const hssize_t count = H5Sget_simple_extent_npoints(space.get());
  std::vector<double> values(static_cast<std::size_t>(std::max<hssize_t>(count, 0)));
  if (!values.empty() && H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, values.data()) < 0) {
    fail("attribute \"" + name + "\" of \"" + object + "\" must hold numbers");
  }
  return values;
}

double File::number_attribute(const std::string& object, const std::string& name) const {
  const std::vector<double> values = numbers_attribute(object, name);
  if (values.size() != 1)
    fail("attribute \"" + name + "\" of \"" + object + "\" must be one number");
  return values[0];
}

std::int64_t File::integer_attribute(const std::string& object, const std::string& name) const {
  silence();
  const Handle attribute(
      H5Aopen_by_name(id_, object.c_str(), name.c_str(), H5P_DEFAULT, link_access()), H5Aclose);
  if (!attribute) fail("\"" + object + "\" has no attribute \"" + name + "\"");
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  std::int64_t value = 0;
  if (H5Sget_simple_extent_npoints(space.get()) != 1 ||
      H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0) {
    fail("attribute \"" + name + "\" of \"" + object + "\" must be one integer");
  }
  return value;
}

// ---- writing that survives a crash ----

void write_atomically(const std::string& path, const std::function<void(File&)>& write) {
  File file = File::create(path);
  write(file);
  file.close();
}

}  // namespace ptyle::driver::hdf5
