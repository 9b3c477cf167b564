// What the parts of io that call the HDF5 library share. No header of the program includes it.
#pragma once

#include <string>
#include <utility>

#include <hdf5.h>

namespace ptyle::driver::hdf5 {

// Owns one HDF5 identifier of any kind.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept
      : id_(std::exchange(other.id_, -1)), closer_(std::exchange(other.closer_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (id_ >= 0 && closer_ != nullptr) closer_(id_);
  }
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

// HDF5 prints a page for every failed call, also for those that only ask. Per thread.
inline void silence() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

// What HDF5 says of the call that failed last, as " (HDF5: ...)"; empty where it says nothing.
std::string hdf5_cause();

// How all files are opened for reading: also those that links lead to, as the library opens no
// file in two ways at once.
Handle file_access();
hid_t link_access();

// What a filter is called, "filter 32008" where unknown; what brings it, in words.
std::string filter_name(H5Z_filter_t id);
std::string filter_package(int id);

}  // namespace ptyle::driver::hdf5
