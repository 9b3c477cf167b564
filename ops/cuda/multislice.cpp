// The operators on CUDA: checks, memory and chunks of positions around csrc/cuda.
#include "csrc/cuda/multislice.h"

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <ATen/Context.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/polar.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/checks.h"
#include "ops/cuda/errors.h"
#include "ops/cuda/transforms.h"
#include "ops/gradients.h"
#include "ops/loss.h"

namespace ptyle::cuda {
namespace {

struct Window {
  int64_t height, width;
  bool precise;
};

// Free on the current device, and held by torch's allocator for nobody.
int64_t memory_at_hand() {
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::cuda::current_device());
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return static_cast<int64_t>(free) + stats.reserved_bytes[kAll].current -
         stats.allocated_bytes[kAll].current;
}

at::Tensor transmission_of(const at::Tensor& phase) {
  return at::polar(at::ones_like(phase), phase);
}

// One call of an operator: its inputs as plain memory, and its chunks.
template <typename T>
class Work {
 public:
  Work(const at::Tensor& object, const at::Tensor& probe, const at::Tensor& positions,
       const std::optional<at::Tensor>& propagator, at::IntArrayRef origin,
       const std::optional<at::Tensor>& detector, const ptyle::Gradients& out)
      : transmission_(object.is_complex() ? plain(object) : transmission_of(plain(object))),
        probe_(plain(probe)),
        propagator_(object.size(0) > 1 ? plain(propagator) : at::Tensor()),
        detector_(plain(detector)),
        out_(out),
        window_{probe.size(1), probe.size(2), sizeof(T) == 8} {
    // Whether a position has a fraction is known to the device alone, and asking would wait for it:
    // every probe is moved, and those without a fraction are the probe again, to the bit.
    constexpr double kLimit = 4503599627370496.0;  // 2^52: beyond it there are no fractions
    if (positions.numel() > 0) {
      at::_assert_async(positions.abs().lt(kLimit).all(),
                        "ptyle: positions must be finite and below 2^52");
    }
    const at::Tensor whole = positions.floor();
    fractions_ = positions.sub(whole).contiguous();
    corners_ = whole.to(at::kLong);
    corners_.select(1, 0).sub_(origin[0]);
    corners_.select(1, 1).sub_(origin[1]);
    corners_ = corners_.contiguous();
    spectrum_ = probe_.clone();
    transform(spectrum_.data_ptr(), window_.height, window_.width, probe.size(0), window_.precise,
              false);
    spectrum_.div_(static_cast<double>(std::max<int64_t>(1, window_.height * window_.width)));
    if (out.probe.defined()) spectrum_sum_ = at::zeros_like(probe_);
    if (out.propagator.defined() && propagator_.defined()) {
      // By slice, also where all share one: their sum does not depend on the chunks then.
      propagator_sum_ =
          at::zeros({object.size(0) - 1, window_.height, window_.width}, probe.options());
    }

    model_ = {object.size(0),
              object.size(1),
              object.size(2),
              probe.size(0),
              window_.height,
              window_.width,
              complex_data<T>(transmission_),
              complex_data<T>(probe_),
              complex_data<T>(spectrum_),
              complex_data<T>(propagator_),
              propagator_.defined() && propagator_.dim() == 3,
              complex_data<T>(detector_),
              !object.is_complex(),
              at::globalContext().deterministicAlgorithms()};
    plan_memory();
  }

  // work(call, first position, gradients of the chunk) for all chunks; then the sums are complete.
  template <typename Each>
  void run(const Each& each) {
    const int64_t n = corners_.size(0);
    for (int64_t begin = 0; begin < n; begin += chunk_) {
      const int64_t b = std::min(chunk_, n - begin);
      Call<T> call{services(), model_, {}, true, out_.positions.defined(), keep_every_};
      call.chunk = {b,
                    model_.modes,
                    model_.height,
                    model_.width,
                    model_.rows,
                    model_.columns,
                    corners_.const_data_ptr<int64_t>() + 2 * begin,
                    fractions_.template const_data_ptr<double>() + 2 * begin};
      Gradients<T> gradients;
      if (out_.object.defined()) gradients.object = out_.object.data_ptr();
      if (out_.illumination.defined())
        gradients.illumination = out_.illumination.template data_ptr<T>();
      gradients.probe = mutable_complex_data<T>(out_.probe);
      gradients.spectrum = mutable_complex_data<T>(spectrum_sum_);
      gradients.propagator = mutable_complex_data<T>(propagator_sum_);
      if (out_.positions.defined()) {
        gradients.positions = out_.positions.template data_ptr<double>() + 2 * begin;
      }
      checked([&] { each(call, begin, gradients); });
    }
    if (propagator_sum_.defined()) {
      out_.propagator.add_(out_.propagator.dim() == 3 ? propagator_sum_ : propagator_sum_.sum(0));
    }
    if (!spectrum_sum_.defined() || n == 0) return;
    transform(spectrum_sum_.data_ptr(), window_.height, window_.width, model_.modes,
              window_.precise, true);
    out_.probe.add_(spectrum_sum_, 1.0 / static_cast<double>(window_.height * window_.width));
  }

 private:
  // Chunks and kept waves from the memory that is free.
  void plan_memory() {
    const int64_t wave = std::max<int64_t>(
        1, model_.modes * model_.height * model_.width * static_cast<int64_t>(sizeof(Complex<T>)));
    const int64_t budget = memory_at_hand() / 2;
    const int64_t others = 7;  // waves at work, patches, transforms, the near field's exit waves
    keep_every_ = 1;
    const int64_t slices = out_.any() ? std::max<int64_t>(1, model_.slices) : 0;
    const auto kept = [&](int64_t every) {
      return every > 1 ? slices / every + 1 + every : slices;
    };
    if (wave * (slices + others) > budget) {
      while (keep_every_ * keep_every_ < slices) ++keep_every_;
    }
    // More than this does not make the device busier.
    constexpr int64_t kEnoughBytes = int64_t{256} << 20;
    const int64_t most = budget / (wave * (kept(keep_every_) + others));
    const int64_t chunk = std::min(most, std::max<int64_t>(1, kEnoughBytes / wave));
    // A power of two: a little more or less memory changes nothing, and one plan transforms it.
    chunk_ = 1;
    while (2 * chunk_ <= chunk) chunk_ *= 2;
  }

  Services services() {
    return {&window_, c10::cuda::getCurrentCUDAStream().stream(),
            [](void*, std::size_t bytes) {
              return c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(
                  bytes, c10::cuda::getCurrentCUDAStream());
            },
            [](void*, void* memory) { c10::cuda::CUDACachingAllocator::raw_delete(memory); },
            [](void* context, void* waves, int64_t count, bool inverse) {
              const auto* window = static_cast<const Window*>(context);
              transform(waves, window->height, window->width, count, window->precise, inverse);
            }};
  }

  at::Tensor transmission_, probe_, propagator_, detector_;
  ptyle::Gradients out_;
  Window window_;
  at::Tensor corners_, fractions_, spectrum_, spectrum_sum_, propagator_sum_;
  Model<T> model_{};
  int64_t chunk_ = 1, keep_every_ = 1;
};

at::TensorOptions real_options(const at::Tensor& probe) {
  return probe.options().dtype(at::toRealValueType(probe.scalar_type()));
}

at::Tensor exit_waves_cuda(const at::Tensor& object, const at::Tensor& probe,
                           const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
                           at::IntArrayRef origin) {
  check_model("exit_waves", object, probe, positions, propagator, c10::fromIntArrayRefSlow(origin));
  const c10::cuda::CUDAGuard device(probe.device());
  at::Tensor exit =
      at::empty({positions.size(0), probe.size(0), probe.size(1), probe.size(2)}, probe.options());
  with_precision(probe, [&]<typename T>() {
    Work<T> work(object, probe, positions, propagator, origin, {}, {});
    work.run([&](const Call<T>& call, int64_t begin, const Gradients<T>&) {
      exit_waves(call, mutable_complex_data<T>(exit) + begin * probe.numel());
    });
    return 0;
  });
  return exit;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> exit_waves_backward_cuda(
    const at::Tensor& gradient, const at::Tensor& object, const at::Tensor& probe,
    const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
    at::IntArrayRef origin, Needs needs) {
  const char* name = "exit_waves_backward";
  check_model(name, object, probe, positions, propagator, c10::fromIntArrayRefSlow(origin));
  check_gradient(name, "gradient", gradient,
                 {positions.sym_size(0), probe.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
                 probe.options());
  const c10::cuda::CUDAGuard device(probe.device());
  const ptyle::Gradients out = zero_gradients(object, probe, positions, propagator, needs);
  const at::Tensor exit = plain(gradient);
  with_precision(probe, [&]<typename T>() {
    Work<T> work(object, probe, positions, propagator, origin, {}, out);
    work.run([&](const Call<T>& call, int64_t begin, const Gradients<T>& gradients) {
      exit_waves_adjoint(call, complex_data<T>(exit) + begin * probe.numel(), gradients);
    });
    return 0;
  });
  return as_tuple(out, probe);
}

at::Tensor diffraction_cuda(const at::Tensor& object, const at::Tensor& probe,
                            const at::Tensor& positions,
                            const std::optional<at::Tensor>& propagator, at::IntArrayRef origin,
                            const std::optional<at::Tensor>& detector) {
  check_model("diffraction", object, probe, positions, propagator,
              c10::fromIntArrayRefSlow(origin));
  check_detector("diffraction", probe, detector);
  const c10::cuda::CUDAGuard device(probe.device());
  at::Tensor intensity =
      at::empty({positions.size(0), probe.size(1), probe.size(2)}, real_options(probe));
  if (probe.size(0) == 0) return intensity.zero_();
  with_precision(probe, [&]<typename T>() {
    Work<T> work(object, probe, positions, propagator, origin, detector, {});
    work.run([&](const Call<T>& call, int64_t begin, const Gradients<T>&) {
      diffraction(call, intensity.data_ptr<T>() + begin * probe.size(1) * probe.size(2));
    });
    return 0;
  });
  return intensity;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> diffraction_backward_cuda(
    const at::Tensor& gradient, const at::Tensor& object, const at::Tensor& probe,
    const at::Tensor& positions, const std::optional<at::Tensor>& propagator,
    at::IntArrayRef origin, const std::optional<at::Tensor>& detector, Needs needs) {
  const char* name = "diffraction_backward";
  check_model(name, object, probe, positions, propagator, c10::fromIntArrayRefSlow(origin));
  check_detector(name, probe, detector);
  check_gradient(name, "gradient", gradient,
                 {positions.sym_size(0), probe.sym_size(1), probe.sym_size(2)},
                 real_options(probe));
  const c10::cuda::CUDAGuard device(probe.device());
  const ptyle::Gradients out = zero_gradients(object, probe, positions, propagator, needs);
  const at::Tensor slope = plain(gradient);
  with_precision(probe, [&]<typename T>() {
    Work<T> work(object, probe, positions, propagator, origin, detector, out);
    work.run([&](const Call<T>& call, int64_t begin, const Gradients<T>& gradients) {
      diffraction_adjoint(call, slope.const_data_ptr<T>() + begin * probe.size(1) * probe.size(2),
                          gradients);
    });
    return 0;
  });
  return as_tuple(out, probe);
}

// The one kernel of loss and gradients of this device, see ops/loss.h.
void accumulate(const char* name, const LossArguments& a, const ptyle::Gradients& out,
                const at::Tensor& losses, const at::Tensor& amplitude_errors) {
  const c10::cuda::CUDAGuard device(a.probe.device());
  const Likelihood likelihood = likelihood_from(name, a.likelihood);
  const int64_t pixels = a.probe.size(1) * a.probe.size(2);
  const auto each = [](const OptionalTensor& tensor) { return tensor && tensor->dim() == 3; };
  with_precision(a.probe, [&]<typename T>() {
    Work<T> work(a.object, a.probe, a.positions, a.propagator, C10_AS_INTARRAYREF_SLOW(a.origin),
                 a.detector, out);
    with_count_type(a.patterns, [&]<typename Count>() {
      work.run([&](const Call<T>& call, int64_t begin, const Gradients<T>& gradients) {
        const Patterns<T, Count> patterns{
            image<Count>(a.patterns, begin, pixels),
            image<unsigned char>(a.mask, begin, pixels),
            image<T>(a.background, begin, pixels),
            a.weights ? a.weights->const_data_ptr<T>() + begin : nullptr,
            each(a.mask),
            each(a.background)};
        const Misfits misfits{
            losses.data_ptr<double>() + begin,
            amplitude_errors.defined() ? amplitude_errors.data_ptr<double>() + begin : nullptr};
        diffraction_loss(call, patterns, likelihood, misfits, out.any(), gradients);
      });
    });
    return 0;
  });
}

}  // namespace
}  // namespace ptyle::cuda

TORCH_LIBRARY_IMPL(ptyle, CUDA, library) {
  library.impl("exit_waves", &ptyle::cuda::exit_waves_cuda);
  library.impl("exit_waves_backward", &ptyle::cuda::exit_waves_backward_cuda);
  library.impl("diffraction", &ptyle::cuda::diffraction_cuda);
  library.impl("diffraction_backward", &ptyle::cuda::diffraction_backward_cuda);
  ptyle::LossOperators<&ptyle::cuda::accumulate>::add_to(library);
}
