#include "csrc/cpu/plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
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

// From the outermost butterfly to the innermost. The outermost one carries what happens in real
// space and must leave registers for it: 4 where there is one. Of the rest as many 8 as possible.
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
  return result;
}

}  // namespace

constexpr int64_t kLargest = int64_t{1} << 24;

bool has_plan(int64_t n) {
  if (n < 1 || n > kLargest) return false;
  for (const int factor : {2, 3, 5}) {
    while (n % factor == 0) n /= factor;
  }
  return n == 1;
}

int64_t good_size(int64_t n, bool down) {
  if (down) n = std::min(n, kLargest);
  while (n >= 1 && n <= kLargest && !has_plan(n)) n += down ? -1 : 1;
  return has_plan(n) ? n : 0;
}

void set_allocate(Allocate to) { allocate = to; }

template <typename T>
Numbers<T>::Numbers(int64_t count, Fill fill) : size_(count) {
  if (count == 0) return;
  data_ = allocate.load()(static_cast<size_t>(count) * sizeof(T));
  if (fill == Fill::kZeros) std::fill_n(data(), count, T(0));
}

template <typename T>
Axis<T> Plan<T>::axis(int64_t size, std::vector<T>& twiddles, std::vector<int32_t>& order) {
  Axis<T> result{};
  result.size = size;
  const std::vector<int32_t> radix = radices(size);
  result.levels = static_cast<int32_t>(radix.size());
  std::vector<size_t> first;
  std::vector<int64_t> frequency(static_cast<size_t>(size), 0);
  int64_t block = size, step = 1;
  for (size_t k = 0; k < radix.size(); ++k) {
    result.radix[k] = radix[k];
    first.push_back(twiddles.size());
    const int64_t m = block / radix[k];
    for (int64_t j = 0; j < m; ++j) {
      for (int64_t q = 1; q < radix[k]; ++q) {
        const long double angle = -2.0L * kPi<long double> *
                                  static_cast<long double>(j * q % block) /
                                  static_cast<long double>(block);
        twiddles.push_back(static_cast<T>(std::cos(angle)));
        twiddles.push_back(static_cast<T>(std::sin(angle)));
      }
    }
    for (int64_t slot = 0; slot < size; ++slot) {
      frequency[static_cast<size_t>(slot)] += slot % block / m * step;
    }
    step *= radix[k];
    block = m;
  }
  order.resize(static_cast<size_t>(2 * size));
  for (int64_t slot = 0; slot < size; ++slot) {
    const auto f = static_cast<int32_t>(frequency[static_cast<size_t>(slot)]);
    order[static_cast<size_t>(slot)] = f;
    order[static_cast<size_t>(size + f)] = static_cast<int32_t>(slot);
  }
  for (size_t k = 0; k < first.size(); ++k) result.twiddles[k] = twiddles.data() + first[k];
  result.frequency = order.data();
  result.slot = order.data() + size;
  return result;
}

template <typename T>
Plan<T>::Plan(int64_t height, int64_t width, int64_t lanes)
    : shape_{axis(height, row_twiddles_, row_order_), axis(width, column_twiddles_, column_order_),
             lanes} {
  // the tables have grown until now: only now do they stay where they are
  for (auto [axis, twiddles] :
       {std::pair(&shape_.rows, &row_twiddles_), std::pair(&shape_.columns, &column_twiddles_)}) {
    const T* at = twiddles->data();
    int64_t block = axis->size;
    for (int32_t k = 0; k < axis->levels; ++k) {
      axis->twiddles[k] = at;
      block /= axis->radix[k];
      at += block * 2 * (axis->radix[k] - 1);
    }
  }
}

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

const InstructionSet* instruction_set() {
  static const std::vector<const InstructionSet*> sets = instruction_sets();
  const char* wanted = std::getenv("PTYLE_ISA");
  if (wanted == nullptr || *wanted == '\0') return sets.front();
  const std::string name = wanted;
  if (name == "reference") return nullptr;
  std::string known;
  for (const InstructionSet* set : sets) {
    if (name == set->name) return set;
    known += std::string(set->name) + ", ";
  }
  throw std::invalid_argument("PTYLE_ISA must name what this processor runs (" + known +
                              "reference), got \"" + name + "\"");
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
