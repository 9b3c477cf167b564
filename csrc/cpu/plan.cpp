#include "csrc/cpu/plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <complex>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <tuple>

#include "csrc/scalar.h"

namespace ptyle::cpu {

#if defined(PTYLE_X86_64)
namespace v4 {
extern const InstructionSet kInstructionSet;
}
namespace v3 {
extern const InstructionSet kInstructionSet;
}
#endif
namespace base {
extern const InstructionSet kInstructionSet;
}

namespace {

std::shared_ptr<void> allocate_new(std::size_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  return {::operator new(bytes, kAlignment),
          [](void* data) { ::operator delete(data, kAlignment); }};
}

std::atomic<Allocate> allocate{&allocate_new};

// Primes below it are transformed by the definition.
constexpr int64_t kDefinition = 60;

int64_t smallest_factor(int64_t n) {
  for (int64_t factor = 2; factor * factor <= n; ++factor) {
    if (n % factor == 0) return factor;
  }
  return n;
}

// Of a prime's transform: p - 1 where that is fast, else a fast size for what wraps around, too.
int64_t convolution_size(int64_t prime) {
  if (is_smooth(prime - 1, kDefinition)) return prime - 1;
  int64_t size = 2 * prime - 3;
  while (!is_smooth(size, 5)) ++size;
  return size;
}

// From the outermost butterfly to the innermost. The outermost one carries what happens in real
// space and must leave registers for it: 4 where there is one. Of the rest as many 8 as possible.
// Other primes come before the innermost one, where they have the smallest strides.
std::vector<int32_t> radices(int64_t n) {
  int twos = 0, threes = 0, fives = 0;
  for (; n % 2 == 0; n /= 2) ++twos;
  for (; n % 3 == 0; n /= 3) ++threes;
  for (; n % 5 == 0; n /= 5) ++fives;
  std::vector<int32_t> result;
  if (twos >= 2) {
    result.push_back(4);
    twos -= 2;
  }
  result.insert(result.end(), static_cast<size_t>(threes), 3);
  result.insert(result.end(), static_cast<size_t>(fives), 5);
  if (twos == 1) {
    result.push_back(2);
  } else {
    const int fours = twos % 3 == 1 ? 2 : twos % 3 == 2 ? 1 : 0;
    result.insert(result.end(), static_cast<size_t>(fours), 4);
    result.insert(result.end(), static_cast<size_t>((twos - 2 * fours) / 3), 8);
  }
  if (result.empty()) result.push_back(1);
  if (n > 1 && result.size() == 1) result.push_back(1);
  for (; n > 1; n /= smallest_factor(n)) {
    result.insert(result.end() - 1, static_cast<int32_t>(smallest_factor(n)));
  }
  return result;
}

using Z = std::complex<long double>;

// exp(-2 pi i k / n)
Z root(int64_t k, int64_t n) {
  return std::polar(1.0L, -2.0L * kPi<long double> * static_cast<long double>(k % n) /
                              static_cast<long double>(n));
}

// roots: of a multiple of x.size().
std::vector<Z> transformed(const std::vector<Z>& x, const std::vector<Z>& roots) {
  const size_t n = x.size();
  if (n == 1) return x;
  const auto count = static_cast<size_t>(smallest_factor(static_cast<int64_t>(n)));
  std::vector<std::vector<Z>> parts(count);
  for (size_t i = 0; i < n; ++i) parts[i % count].push_back(x[i]);
  std::vector<Z> y(n);
  for (size_t q = 0; q < count; ++q) {
    const std::vector<Z> part = transformed(parts[q], roots);
    for (size_t k = 0; k < n; ++k)
      y[k] += part[k % part.size()] * roots[k * q % n * (roots.size() / n)];
  }
  return y;
}

// Powers of the smallest number whose powers modulo a prime are all of 1 ... prime - 1.
std::vector<int32_t> powers_of_root(int64_t prime) {
  for (int64_t root = 2;; ++root) {
    std::vector<int32_t> powers{1};
    for (int64_t x = root; x != 1; x = x * root % prime) powers.push_back(static_cast<int32_t>(x));
    if (static_cast<int64_t>(powers.size()) == prime - 1) return powers;
  }
}

template <typename T>
void push(Z z, std::vector<T>& to) {
  to.push_back(static_cast<T>(z.real()));
  to.push_back(static_cast<T>(z.imag()));
}

}  // namespace

int64_t good_size(int64_t n, bool down) {
  if (down) n = std::min(n, kLargestSize);
  while (n >= 1 && n <= kLargestSize && !is_smooth(n, 5)) n += down ? -1 : 1;
  return n <= kLargestSize ? n : 0;
}

void set_allocate(Allocate to) { allocate = to; }

template <typename T>
Numbers<T>::Numbers(int64_t count, Fill fill) : size_(count) {
  if (count == 0) return;
  data_ = allocate.load()(static_cast<size_t>(count) * sizeof(T));
  if (fill == Fill::kZeros) std::fill_n(data(), count, T(0));
}

template <typename T>
struct PrimePlan {
  explicit PrimePlan(int64_t p) : convolution(p < kDefinition ? 1 : convolution_size(p)) {
    if (p < kDefinition) {
      for (int64_t k = 1; k <= p / 2; ++k) {
        for (int64_t j = 1; j <= p / 2; ++j) push(std::conj(root(j * k, p)), factors);
      }
    } else {
      // exp(-2 pi i / p) to the powers of the inverse root, as often as the convolution needs them
      powers = powers_of_root(p);
      const int64_t size = convolution.axis().size;
      std::vector<Z> kernel(static_cast<size_t>(size)), roots;
      for (int64_t n = 0; n < size; ++n) roots.push_back(root(n, size));
      for (int64_t n = 0; n < p - 1; ++n) {
        const Z z = root(powers[static_cast<size_t>(n)], p) / static_cast<long double>(size);
        kernel[static_cast<size_t>((size - n) % size)] = z;
        if (n > 0) kernel[static_cast<size_t>(p - 1 - n)] = z;
      }
      const std::vector<Z> spectrum = transformed(kernel, roots);
      for (int64_t slot = 0; slot < size; ++slot) {
        push(spectrum[static_cast<size_t>(convolution.axis().frequency[slot])], factors);
      }
    }
    prime = {factors.data(), powers.empty() ? nullptr : powers.data(), convolution.axis()};
  }

  AxisPlan<T> convolution;
  std::vector<T> factors;
  std::vector<int32_t> powers;
  Prime<T> prime;
};

template <typename T>
AxisPlan<T>::AxisPlan(int64_t size) {
  axis_.size = size;
  axis_.scratch = transform_scratch(size);
  const std::vector<int32_t> radix = radices(size);
  axis_.levels = static_cast<int32_t>(radix.size());
  std::vector<size_t> first;
  std::vector<int64_t> frequency(static_cast<size_t>(size), 0);
  int64_t block = size, step = 1;
  for (size_t k = 0; k < radix.size(); ++k) {
    axis_.radix[k] = radix[k];
    if (radix[k] > 5 && radix[k] != 8) {
      primes_.push_back(std::make_shared<const PrimePlan<T>>(radix[k]));
      axis_.prime[k] = &primes_.back()->prime;
    }
    first.push_back(twiddles_.size());
    const int64_t m = block / radix[k];
    for (int64_t j = 0; j < m; ++j) {
      for (int64_t q = 1; q < radix[k]; ++q) push(root(j * q, block), twiddles_);
    }
    for (int64_t slot = 0; slot < size; ++slot) {
      frequency[static_cast<size_t>(slot)] += slot % block / m * step;
    }
    step *= radix[k];
    block = m;
  }
  order_.resize(static_cast<size_t>(2 * size));
  for (int64_t slot = 0; slot < size; ++slot) {
    const auto f = static_cast<int32_t>(frequency[static_cast<size_t>(slot)]);
    order_[static_cast<size_t>(slot)] = f;
    order_[static_cast<size_t>(size + f)] = static_cast<int32_t>(slot);
  }
  for (size_t k = 0; k < first.size(); ++k) axis_.twiddles[k] = twiddles_.data() + first[k];
  axis_.frequency = order_.data();
  axis_.slot = order_.data() + size;
}

template <typename T>
Plan<T>::Plan(int64_t height, int64_t width, int64_t lanes)
    : rows_(height), columns_(width), shape_{rows_.axis(), columns_.axis(), lanes} {}

template <typename T>
void Plan<T>::to_panels(const T* from, T* panels) const {
  const int64_t W = shape_.lanes, w = shape_.width();
  for (int64_t y = 0; y < shape_.height(); ++y) {
    for (int64_t first = 0; first < w; first += W) {
      T* to = panels + (first / W * shape_.panel_rows() + y) * 2 * W;
      const T* at = from + 2 * (y * w + first);
      const int64_t lanes = std::min(W, w - first);
      for (int64_t l = 0; l < lanes; ++l) to[l] = at[2 * l];
      for (int64_t l = 0; l < lanes; ++l) to[W + l] = at[2 * l + 1];
    }
  }
}

template <typename T>
void Plan<T>::add_panels(const T* panels, T* to) const {
  const int64_t W = shape_.lanes, w = shape_.width();
  for (int64_t y = 0; y < shape_.height(); ++y) {
    for (int64_t first = 0; first < w; first += W) {
      const T* from = panels + (first / W * shape_.panel_rows() + y) * 2 * W;
      T* at = to + 2 * (y * w + first);
      const int64_t lanes = std::min(W, w - first);
      for (int64_t l = 0; l < lanes; ++l) {
        at[2 * l] += from[l];
        at[2 * l + 1] += from[W + l];
      }
    }
  }
}

template <typename T>
void Plan<T>::to_spectrum(const T* from, T scale, T* spectrum) const {
  const int64_t W = shape_.lanes, w = shape_.width();
  for (int64_t r = 0; r < shape_.height(); ++r) {
    for (int64_t slot = 0; slot < w; ++slot) {
      const T* at = from + 2 * (shape_.rows.frequency[r] * w + shape_.columns.frequency[slot]);
      T* to = spectrum + (r / W * w + slot) * 2 * W + r % W;
      to[0] = scale * at[0];
      to[W] = scale * at[1];
    }
  }
}

template <typename T>
void Plan<T>::add_spectrum(const T* spectrum, T scale, T* to) const {
  const int64_t W = shape_.lanes, w = shape_.width();
  for (int64_t r = 0; r < shape_.height(); ++r) {
    for (int64_t slot = 0; slot < w; ++slot) {
      T* at = to + 2 * (shape_.rows.frequency[r] * w + shape_.columns.frequency[slot]);
      const T* from = spectrum + (r / W * w + slot) * 2 * W + r % W;
      at[0] += scale * from[0];
      at[1] += scale * from[W];
    }
  }
}

template <typename T>
std::shared_ptr<const Plan<T>> plan_for(int64_t height, int64_t width, int64_t lanes) {
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, int64_t>, std::shared_ptr<const Plan<T>>> plans;
  const std::lock_guard lock(mutex);
  auto& plan = plans[{height, width, lanes}];
  if (!plan) plan = std::make_shared<const Plan<T>>(height, width, lanes);
  return plan;
}

std::vector<const InstructionSet*> instruction_sets() {
  std::vector<const InstructionSet*> sets;
#if defined(PTYLE_X86_64)
  if (__builtin_cpu_supports("x86-64-v4")) sets.push_back(&v4::kInstructionSet);
  if (__builtin_cpu_supports("x86-64-v3")) sets.push_back(&v3::kInstructionSet);
#endif
  sets.push_back(&base::kInstructionSet);
  return sets;
}

const InstructionSet& instruction_set() {
  static const std::vector<const InstructionSet*> sets = instruction_sets();
  const char* wanted = std::getenv("PTYLE_ISA");
  if (wanted == nullptr || *wanted == '\0') return *sets.front();
  const std::string name = wanted;
  std::string known;
  for (const InstructionSet* set : sets) {
    if (name == set->name) return *set;
    known += (known.empty() ? "" : ", ") + std::string(set->name);
  }
  throw std::invalid_argument("PTYLE_ISA must name what this processor runs (" + known +
                              "), got \"" + name + "\"");
}

template <>
const Kernels<float>& kernels<float>(const InstructionSet& set) {
  return *set.single;
}
template <>
const Kernels<double>& kernels<double>(const InstructionSet& set) {
  return *set.precise;
}

template class Numbers<float>;
template class Numbers<double>;
template class Plan<float>;
template class Plan<double>;
template std::shared_ptr<const Plan<float>> plan_for<float>(int64_t, int64_t, int64_t);
template std::shared_ptr<const Plan<double>> plan_for<double>(int64_t, int64_t, int64_t);

}  // namespace ptyle::cpu
