// The multislice kernels for devices.
#include "csrc/cuda/launch.cuh"
#include "csrc/cuda/multislice.h"
#include "csrc/cuda/sequence.cuh"

namespace ptyle::cuda {
namespace {

class CudaDevice {
 public:
  explicit CudaDevice(const Services& services) : services_(services) {}

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t items, Arguments... arguments) {
    launch_items(services_.stream, kernel, items, arguments...);
  }
  template <typename... Parameters, typename... Arguments>
  void launch_blocks(void (*kernel)(Parameters...), int64_t blocks, Arguments... arguments) {
    cuda::launch_blocks(services_.stream, kernel, blocks, arguments...);
  }

  template <typename V>
  class Memory {
   public:
    Memory() = default;
    Memory(const Services* services, V* data) : services_(services), data_(data) {}
    Memory(Memory&& other) noexcept : services_(other.services_), data_(other.data_) {
      other.data_ = nullptr;
    }
    Memory& operator=(Memory&& other) noexcept {
      const Memory old(static_cast<Memory&&>(*this));
      services_ = other.services_;
      data_ = other.data_;
      other.data_ = nullptr;
      return *this;
    }
    ~Memory() {
      if (data_ != nullptr) services_->free(services_->context, data_);
    }
    V* get() const { return data_; }
    explicit operator bool() const { return data_ != nullptr; }

   private:
    const Services* services_ = nullptr;
    V* data_ = nullptr;
  };

  template <typename V>
  Memory<V> allocate(int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count > 0 ? count : 1) * sizeof(V);
    return {&services_, static_cast<V*>(services_.allocate(services_.context, bytes))};
  }

  template <typename V>
  void transform(V* waves, int64_t count, bool inverse) {
    if (count > 0) services_.transform(services_.context, waves, count, inverse);
  }
  template <typename V>
  void copy(const V* from, V* to, int64_t count) {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(V),
                          cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(services_.stream)));
  }

 private:
  Services services_;
};

template <typename T>
Sequence<T, CudaDevice> sequence_of(CudaDevice& device, const Call<T>& call) {
  return {device, call.model, call.chunk, call.any_shift, call.needs_positions, call.keep_every};
}

template <typename T>
int64_t numbers(const Call<T>& call) {
  return call.chunk.positions * call.chunk.modes * call.chunk.height * call.chunk.width;
}

}  // namespace

template <typename T>
void exit_waves(const Call<T>& call, Complex<T>* exit) {
  CudaDevice device(call.services);
  auto sequence = sequence_of(device, call);
  sequence.forward(false);
  device.copy(static_cast<const Complex<T>*>(sequence.waves()), exit, numbers(call));
}

template <typename T>
void exit_waves_adjoint(const Call<T>& call, const Complex<T>* gradient,
                        const Gradients<T>& gradients) {
  CudaDevice device(call.services);
  auto sequence = sequence_of(device, call);
  sequence.forward(true);
  device.copy(gradient, sequence.waves(), numbers(call));
  sequence.adjoint(gradients);
}

template <typename T>
void diffraction(const Call<T>& call, T* intensity) {
  CudaDevice device(call.services);
  auto sequence = sequence_of(device, call);
  sequence.forward(false);
  sequence.detect(false);
  sequence.intensity(intensity);
}

template <typename T>
void diffraction_adjoint(const Call<T>& call, const T* slope, const Gradients<T>& gradients) {
  CudaDevice device(call.services);
  auto sequence = sequence_of(device, call);
  sequence.forward(true);
  sequence.detect(true);
  sequence.scale_by(slope);
  sequence.undetect(gradients.positions);
  sequence.adjoint(gradients);
}

template <typename T, typename Count>
void diffraction_loss(const Call<T>& call, const Patterns<T, Count>& patterns,
                      Likelihood likelihood, const Misfits& misfits, bool with_gradients,
                      const Gradients<T>& gradients) {
  CudaDevice device(call.services);
  auto sequence = sequence_of(device, call);
  sequence.forward(with_gradients);
  sequence.detect(with_gradients);
  with_likelihood(likelihood, [&](auto functor) {
    sequence.compare(patterns, functor, with_gradients, misfits);
  });
  if (!with_gradients) return;
  sequence.undetect(gradients.positions);
  sequence.adjoint(gradients);
}

#define PTYLE_INSTANTIATE_LOSS(T, Count)                                                          \
  template void diffraction_loss<T, Count>(const Call<T>&, const Patterns<T, Count>&, Likelihood, \
                                           const Misfits&, bool, const Gradients<T>&);
#define PTYLE_INSTANTIATE(T)                                                                   \
  template void exit_waves<T>(const Call<T>&, Complex<T>*);                                    \
  template void exit_waves_adjoint<T>(const Call<T>&, const Complex<T>*, const Gradients<T>&); \
  template void diffraction<T>(const Call<T>&, T*);                                            \
  template void diffraction_adjoint<T>(const Call<T>&, const T*, const Gradients<T>&);         \
  PTYLE_INSTANTIATE_LOSS(T, uint8_t)                                                           \
  PTYLE_INSTANTIATE_LOSS(T, int16_t)                                                           \
  PTYLE_INSTANTIATE_LOSS(T, uint16_t)                                                          \
  PTYLE_INSTANTIATE_LOSS(T, int32_t)                                                           \
  PTYLE_INSTANTIATE_LOSS(T, float)                                                             \
  PTYLE_INSTANTIATE_LOSS(T, double)

PTYLE_INSTANTIATE(float)
PTYLE_INSTANTIATE(double)

}  // namespace ptyle::cuda
