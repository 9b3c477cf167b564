#include "driver/io/hdf5_device.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#include <hdf5.h>

namespace ptyle::driver::hdf5 {
namespace {

// The library's idea of an open file; it fills the base.
struct Device : H5FD_t {
  Output* output = nullptr;
  haddr_t end_of_space = 0;  // what the library has given away
  haddr_t end_of_file = 0;   // what was written
};
static_assert(std::is_standard_layout_v<H5FD_t>);

Device* device(H5FD_t* file) { return static_cast<Device*>(file); }
const Device* device(const H5FD_t* file) { return static_cast<const Device*>(file); }

constexpr haddr_t kMostBytes = (haddr_t{1} << 63) - 1;

H5FD_t* open(const char*, unsigned, hid_t access, haddr_t) {
  auto* const* output = static_cast<Output* const*>(H5Pget_driver_info(access));
  if (output == nullptr || *output == nullptr) return nullptr;
  auto opened = std::make_unique<Device>();
  opened->output = *output;
  return opened.release();
}

herr_t close(H5FD_t* file) {
  delete device(file);
  return 0;
}

int compare(const H5FD_t* a, const H5FD_t* b) { return a < b ? -1 : a == b ? 0 : 1; }

herr_t query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

haddr_t get_end_of_space(const H5FD_t* file, H5FD_mem_t) { return device(file)->end_of_space; }
herr_t set_end_of_space(H5FD_t* file, H5FD_mem_t, haddr_t end) {
  device(file)->end_of_space = end;
  return 0;
}
haddr_t get_end_of_file(const H5FD_t* file, H5FD_mem_t) { return device(file)->end_of_file; }

herr_t read(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, void* data) {
  device(file)->output->read_at(data, size, static_cast<std::int64_t>(address));
  return 0;
}

herr_t write(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, const void* data) {
  Device* to = device(file);
  to->output->write_at(data, size, static_cast<std::int64_t>(address));
  to->end_of_file = std::max(to->end_of_file, address + size);
  return 0;
}

herr_t truncate(H5FD_t* file, hid_t, hbool_t) {
  Device* at = device(file);
  if (at->end_of_file != at->end_of_space) {
    at->output->resize(static_cast<std::int64_t>(at->end_of_space));
    at->end_of_file = at->end_of_space;
  }
  return 0;
}

// Nobody else knows of the file yet.
herr_t lock(H5FD_t*, hbool_t) { return 0; }
herr_t unlock(H5FD_t*) { return 0; }

hid_t registered_driver() {
  static const H5FD_class_t kDriver = [] {
    H5FD_class_t driver{};
    driver.name = "ptyle";
    driver.maxaddr = kMostBytes;
    driver.fc_degree = H5F_CLOSE_STRONG;
    driver.fapl_size = sizeof(Output*);
    driver.open = open;
    driver.close = close;
    driver.cmp = compare;
    driver.query = query;
    driver.get_eoa = get_end_of_space;
    driver.set_eoa = set_end_of_space;
    driver.get_eof = get_end_of_file;
    driver.read = read;
    driver.write = write;
    driver.truncate = truncate;
    driver.lock = lock;
    driver.unlock = unlock;
    const H5FD_mem_t map[] = H5FD_FLMAP_DICHOTOMY;
    std::copy(std::begin(map), std::end(map), std::begin(driver.fl_map));
    return driver;
  }();
  static const hid_t id = H5FDregister(&kDriver);
  return id;
}

}  // namespace

bool lead_to(std::int64_t access, Output& output) {
  const hid_t driver = registered_driver();
  Output* const info = &output;
  return driver >= 0 && H5Pset_driver(access, driver, &info) >= 0;
}

}  // namespace ptyle::driver::hdf5
