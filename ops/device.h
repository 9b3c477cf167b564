// What the program and the halo operators need beside the operators. What they need of CUDA the
// CUDA library offers when it is loaded; nothing else links CUDA.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include "csrc/pieces.h"
#include "csrc/updates.h"
#include "ptyle/ops.h"  // PTYLE_API

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace ptyle {

// Work is queued on the current stream of the current device, and not waited for.
class CudaServices {
 public:
  CudaServices() = default;
  CudaServices(const CudaServices&) = delete;
  CudaServices& operator=(const CudaServices&) = delete;
  virtual ~CudaServices() = default;

  virtual void update(const ImageSize& size, const Update<float>& formula) const = 0;
  virtual void update(const ImageSize& size, const Update<double>& formula) const = 0;
  // sums [planes x rows] float64
  virtual void sum_rows(const ImageSize& size, const SumOf<float>& term, double* sums) const = 0;
  virtual void sum_rows(const ImageSize& size, const SumOf<double>& term, double* sums) const = 0;
  // moves [count] in the device's memory, `elements` in a slice, of tensors of `type`.
  virtual void move_pieces(at::ScalarType type, const Move* moves, std::int64_t count,
                           std::int64_t elements, std::int64_t slices, bool add) const = 0;

  // Why no device can be used, in words; empty where one can.
  virtual std::string why_no_device() const = 0;
  virtual std::int64_t devices() const = 0;
  virtual std::string name(std::int64_t device) const = 0;
  virtual std::string uuid(std::int64_t device) const = 0;  // 16 bytes
  virtual std::int64_t free_bytes(std::int64_t device) const = 0;
  // The most that tensors took at a time since the last call of restart_most_bytes.
  virtual std::int64_t most_bytes(std::int64_t device) const = 0;
  virtual void restart_most_bytes(std::int64_t device) const = 0;

  // NCCL for tensors of `device`, connected to all ranks that meet in `store`, on a stream of high
  // priority.
  virtual c10::intrusive_ptr<c10d::Backend> nccl(const c10::intrusive_ptr<c10d::Store>& store,
                                                 std::int64_t rank, std::int64_t size,
                                                 std::chrono::milliseconds timeout,
                                                 std::int64_t device) const = 0;
};

// Loads the CUDA library where it is not yet; throws c10::Error where it cannot be.
PTYLE_API const CudaServices& cuda_services();

// For the CUDA library, when it is loaded.
PTYLE_API void offer_cuda_services(const CudaServices* services);

}  // namespace ptyle
