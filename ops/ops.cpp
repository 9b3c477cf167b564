// The C++ face: thin wrappers that go through the dispatcher.
#include "ptyle/ops.h"

#include <dlfcn.h>
#include <string>
#include <utility>

#include "ops/device.h"
#include "ops/dispatch.h"

namespace ptyle {
namespace {

std::array<c10::SymInt, 2> symbolic(std::array<int64_t, 2> pair) { return {pair[0], pair[1]}; }

LossArguments loss_arguments(const at::Tensor& object, const at::Tensor& probe,
                             const at::Tensor& positions, const OptionalTensor& propagator,
                             const at::Tensor& patterns, const LossOptions& options) {
  return {object,
          probe,
          positions,
          propagator,
          patterns,
          options.weights,
          options.mask,
          options.background,
          options.likelihood,
          {options.origin[0], options.origin[1]},
          options.detector};
}

}  // namespace

at::Tensor exit_waves(const at::Tensor& object, const at::Tensor& probe,
                      const at::Tensor& positions, const OptionalTensor& propagator,
                      std::array<int64_t, 2> origin) {
  return dispatch::exit_waves(object, probe, positions, propagator, symbolic(origin));
}

at::Tensor diffraction(const at::Tensor& object, const at::Tensor& probe,
                       const at::Tensor& positions, const OptionalTensor& propagator,
                       const ModelOptions& options) {
  return dispatch::diffraction(object, probe, positions, propagator, symbolic(options.origin),
                               options.detector);
}

Loss diffraction_loss(const at::Tensor& object, const at::Tensor& probe,
                      const at::Tensor& positions, const OptionalTensor& propagator,
                      const at::Tensor& patterns, const LossOptions& options) {
  auto [loss, losses] = dispatch::diffraction_loss(
      loss_arguments(object, probe, positions, propagator, patterns, options));
  return {std::move(loss), std::move(losses)};
}

void diffraction_loss_accumulate_(const at::Tensor& object, const at::Tensor& probe,
                                  const at::Tensor& positions, const OptionalTensor& propagator,
                                  const at::Tensor& patterns, const GradientBuffers& gradients,
                                  at::Tensor losses, const LossOptions& options) {
  dispatch::diffraction_loss_accumulate_(
      loss_arguments(object, probe, positions, propagator, patterns, options), gradients, losses);
}

std::string cpu_kernels(int64_t height, int64_t width) {
  return dispatch::cpu_kernels(height, width);
}

int64_t good_size(int64_t size, bool down) { return dispatch::good_size(size, down); }

std::vector<at::Tensor> halo_insert(const std::vector<at::Tensor>& owned, const Tiling& tiling) {
  return dispatch::halo_insert(owned, tiling.row_cuts, tiling.column_cuts, tiling.halo,
                               tiling.owners, tiling.group);
}

std::vector<at::Tensor> halo_add(const std::vector<at::Tensor>& extended, const Tiling& tiling) {
  return dispatch::halo_add(extended, tiling.row_cuts, tiling.column_cuts, tiling.halo,
                            tiling.owners, tiling.group);
}

at::Tensor illumination(const at::Tensor& probe, const at::Tensor& positions,
                        std::array<int64_t, 2> shape, std::array<int64_t, 2> origin) {
  return dispatch::illumination(probe, positions, symbolic(shape), symbolic(origin));
}

at::Tensor extract_patches(const at::Tensor& object, const at::Tensor& positions,
                           std::array<int64_t, 2> window, std::array<int64_t, 2> origin,
                           double outside) {
  return dispatch::extract_patches(object, positions, symbolic(window), symbolic(origin), outside,
                                   {0, 0});
}

at::Tensor add_patches(const at::Tensor& patches, const at::Tensor& positions,
                       std::array<int64_t, 2> shape, std::array<int64_t, 2> origin) {
  return dispatch::add_patches(patches, positions, symbolic(shape), symbolic(origin), {0, 0});
}

const char* version() { return PTYLE_VERSION; }

void load_cuda() {
  static void* const library = [] {
    Dl_info here{};
    TORCH_CHECK(dladdr(reinterpret_cast<const void*>(&version), &here) != 0,
                "ptyle::load_cuda: the folder of libptyle_ops.so is unknown");
    std::string path = here.dli_fname;
    path = path.substr(0, path.find_last_of('/') + 1) + "libptyle_ops_cuda.so";
    void* const opened = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (opened == nullptr) {
      const char* reason = dlerror();
      TORCH_CHECK(false, "ptyle::load_cuda: the CUDA kernels cannot be loaded: ",
                  reason ? reason : "unknown reason",
                  ". They need ptyle built with CUDA and the CUDA libraries that the torch wheel "
                  "depends on");
    }
    return opened;
  }();
  (void)library;  // a failed attempt throws, and is tried anew by the next call
}

namespace {
const CudaServices* offered_services = nullptr;
}  // namespace

const CudaServices& cuda_services() {
  load_cuda();
  TORCH_CHECK(offered_services != nullptr,
              "ptyle: libptyle_ops_cuda.so must be of the same build as libptyle_ops.so");
  return *offered_services;
}

void offer_cuda_services(const CudaServices* services) { offered_services = services; }

}  // namespace ptyle
