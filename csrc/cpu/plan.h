// Plans of 2-D transforms, and the instruction set that works on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "csrc/cpu/layout.h"

namespace ptyle::cpu {

inline constexpr int64_t kLargestSize = int64_t{1} << 24;

// The nearest size without prime factors but 2, 3 and 5, the fast ones: the largest not above
// n >= 1, or the smallest not below it (0 where there is none).
int64_t good_size(int64_t n, bool down);

// Where scratch memory comes from, aligned to 64 bytes; operator new until something else is set.
using Allocate = std::shared_ptr<void> (*)(std::size_t bytes);
void set_allocate(Allocate allocate);

enum class Fill { kZeros, kNothing };

// Memory of numbers.
template <typename T>
class Numbers {
 public:
  Numbers() = default;
  explicit Numbers(int64_t count, Fill fill = Fill::kZeros);
  T* data() { return static_cast<T*>(data_.get()); }
  const T* data() const { return static_cast<const T*>(data_.get()); }
  int64_t size() const { return size_; }

 private:
  std::shared_ptr<void> data_;
  int64_t size_ = 0;
};

template <typename T>
struct PrimePlan;

// One axis' transform and the tables that it points to.
template <typename T>
class AxisPlan {
 public:
  explicit AxisPlan(int64_t size);
  AxisPlan(const AxisPlan&) = delete;
  AxisPlan& operator=(const AxisPlan&) = delete;
  const Axis<T>& axis() const { return axis_; }

 private:
  std::vector<T> twiddles_;
  std::vector<int32_t> order_;
  std::vector<std::shared_ptr<const PrimePlan<T>>> primes_;
  Axis<T> axis_{};
};

template <typename T>
class Plan {
 public:
  // height, width: 1 to kLargestSize; lanes: of the kernels that it is for.
  Plan(int64_t height, int64_t width, int64_t lanes);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  const Shape<T>& shape() const { return shape_; }

  // Row-major complex [h, w] <-> layouts; not for inner loops.
  void to_panels(const T* from, T* panels) const;
  void add_panels(const T* panels, T* to) const;                // to += panels
  void to_spectrum(const T* from, T scale, T* spectrum) const;  // natural order from
  void add_spectrum(const T* spectrum, T scale, T* to) const;   // to += scale x spectrum

 private:
  AxisPlan<T> rows_, columns_;
  Shape<T> shape_;
};

// One plan for all that ask for the same; kept for the life of the process. Safe on any thread.
template <typename T>
std::shared_ptr<const Plan<T>> plan_for(int64_t height, int64_t width, int64_t lanes);

// The best instruction set of this processor, or the one that PTYLE_ISA names: v4, v3 (x86-64) or
// base (any processor). Throws std::invalid_argument with a sentence where PTYLE_ISA names what is
// not there.
const InstructionSet& instruction_set();
// All that this processor can run, best first.
std::vector<const InstructionSet*> instruction_sets();

template <typename T>
const Kernels<T>& kernels(const InstructionSet& set);

}  // namespace ptyle::cpu
