#include "ops/halo/pieces.h"

#include <cstring>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "ops/device.h"

namespace ptyle {
namespace {

template <typename T>
void add_row(const void* from, void* to, std::int64_t numbers) {
  const T* in = static_cast<const T*>(from);
  T* out = static_cast<T*>(to);
  for (std::int64_t x = 0; x < numbers; ++x) out[x] += in[x];
}

}  // namespace

void Pieces::add(const at::Tensor& from, const Rectangle& from_frame, const at::Tensor& to,
                 const Rectangle& to_frame, const Rectangle& area) {
  if (from.size(0) == 0 || area.empty()) return;
  TORCH_INTERNAL_ASSERT(from.size(2) <= 1 || from.stride(2) == 1);
  TORCH_INTERNAL_ASSERT(to.size(2) <= 1 || to.stride(2) == 1);
  TORCH_INTERNAL_ASSERT(from.scalar_type() == to.scalar_type() && from.device() == to.device());
  type_ = to.scalar_type();
  device_ = to.device();
  slices_ = to.size(0);
  const auto* corner =
      static_cast<const std::byte*>(from.const_data_ptr()) +
      ((area.row - from_frame.row) * from.stride(1) + area.column - from_frame.column) *
          static_cast<std::int64_t>(from.element_size());
  void* const target = to.data_ptr();
  const auto count = static_cast<std::int64_t>(moves_.size());
  const bool together = count > 0 && moves_.back().to == target;
  const std::int64_t begin = together ? moves_.back().begin : count;
  moves_.push_back({corner, target, from.stride(0), from.stride(1), to.stride(0), to.stride(1),
                    area.row - to_frame.row, area.column - to_frame.column, area.rows, area.columns,
                    elements_, begin, count + 1});
  for (auto k = static_cast<std::size_t>(begin); k < moves_.size(); ++k) moves_[k].end = count + 1;
  elements_ += area.pixels();
}

void Pieces::run(bool adds) {
  if (!moves_.empty()) {
    if (device_.is_cpu()) {
      run_on_cpu(adds);
    } else {
      run_on_device(adds);
    }
  }
  moves_.clear();
  elements_ = 0;
}

// A thread works on all that goes to one tensor; or, where nothing is added, on one piece.
void Pieces::run_on_cpu(bool adds) const {
  const auto size = static_cast<std::int64_t>(c10::elementSize(type_));
  const std::int64_t numbers = c10::isComplexType(type_) ? 2 : 1;
  const auto add_one =
      at::toRealValueType(type_) == at::kFloat ? &add_row<float> : &add_row<double>;
  const auto count = static_cast<std::int64_t>(moves_.size());
  constexpr std::int64_t kWorthAThread = 1 << 16;  // elements
  const std::int64_t grain = std::max<std::int64_t>(
      1, count * kWorthAThread / std::max<std::int64_t>(1, slices_ * elements_));
  at::parallel_for(0, count, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const Move& move = moves_[static_cast<std::size_t>(k)];
      // Who has the first of a tensor's pieces has them all.
      if (adds && move.begin != k) continue;
      for (std::int64_t i = k; i < (adds ? move.end : k + 1); ++i) {
        const Move& one = moves_[static_cast<std::size_t>(i)];
        for (std::int64_t s = 0; s < slices_; ++s) {
          for (std::int64_t y = 0; y < one.rows; ++y) {
            const auto* from = static_cast<const std::byte*>(one.from) +
                               (s * one.from_slice + y * one.from_row) * size;
            auto* to = static_cast<std::byte*>(one.to) +
                       (s * one.to_slice + (one.row + y) * one.to_row + one.column) * size;
            if (adds) {
              add_one(from, to, one.columns * numbers);
            } else {
              std::memcpy(to, from, static_cast<std::size_t>(one.columns * size));
            }
          }
        }
      }
    }
  });
}

void Pieces::run_on_device(bool adds) {
  if (moves_ != on_device_) {
    const auto bytes = static_cast<std::int64_t>(moves_.size() * sizeof(Move));
    const at::Tensor table =
        at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    std::memcpy(table.data_ptr(), moves_.data(), static_cast<std::size_t>(bytes));
    table_ = table.to(device_, /*non_blocking=*/true);
    on_device_ = moves_;
  }
  cuda_services().move_pieces(type_, static_cast<const Move*>(table_.const_data_ptr()),
                              static_cast<std::int64_t>(moves_.size()), elements_, slices_, adds);
}

}  // namespace ptyle
