#include "ops/counts.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "ops/gradients.h"

namespace ptyle {
namespace {

constexpr std::int64_t kPixelsAtOnce = std::int64_t{1} << 22;

[[noreturn]] void refuse(const char* name, const at::Tensor& patterns, const at::Tensor& wide,
                         const at::Tensor& bad, std::int64_t first) {
  const std::int64_t index = bad.flatten().nonzero()[0].item<std::int64_t>();
  const std::int64_t count = wide.flatten()[index].item<std::int64_t>();
  const std::string in_words = patterns.scalar_type() == at::kUInt64
                                   ? std::to_string(static_cast<std::uint64_t>(count))
                                   : std::to_string(count);
  TORCH_CHECK_VALUE(false, "ptyle::", name, ": patterns of type ", patterns.scalar_type(),
                    " must hold numbers that int32 holds, got ", in_words, " in pattern ",
                    first + index / (wide.size(1) * wide.size(2)),
                    " (the mask may hide it; torch.float64 holds it)");
}

at::Tensor narrowed(const char* name, const at::Tensor& patterns,
                    const std::optional<at::Tensor>& mask) {
  const bool is_signed = patterns.scalar_type() == at::kLong;
  const std::int64_t least = is_signed ? std::numeric_limits<std::int32_t>::min() : 0;
  const std::int64_t most = std::numeric_limits<std::int32_t>::max();
  // torch compares no uint64: as int64, in which what is too large is negative
  const at::Tensor stored =
      patterns.scalar_type() == at::kUInt64 ? plain(patterns).view(at::kLong) : plain(patterns);
  at::Tensor counts = at::empty(stored.sizes(), stored.options().dtype(at::kInt));
  const std::int64_t pixels = std::max<std::int64_t>(1, stored.size(1) * stored.size(2));
  const std::int64_t block = std::max<std::int64_t>(1, kPixelsAtOnce / pixels);
  for (std::int64_t first = 0; first < stored.size(0); first += block) {
    const std::int64_t length = std::min(block, stored.size(0) - first);
    const at::Tensor wide = stored.narrow(0, first, length).to(at::kLong);
    at::Tensor bad = wide.lt(least).logical_or_(wide.gt(most));
    if (mask) {
      const at::Tensor hidden = mask->dim() == 3 ? mask->narrow(0, first, length) : *mask;
      bad = bad.logical_and(hidden.eq(0));
    }
    if (bad.any().item<bool>()) refuse(name, patterns, wide, bad, first);
    counts.narrow(0, first, length).copy_(wide);
  }
  return counts;
}

}  // namespace

at::Tensor readable_counts(const char* name, const at::Tensor& patterns,
                           const std::optional<at::Tensor>& mask) {
  switch (patterns.scalar_type()) {
    case at::kBool:
      return plain(patterns).to(at::kByte);
    case at::kChar:
      return plain(patterns).to(at::kShort);
    case at::kHalf:
    case at::kBFloat16:
      return plain(patterns).to(at::kFloat);
    case at::kUInt32:
    case at::kLong:
    case at::kUInt64:
      return narrowed(name, patterns, mask);
    default:
      return plain(patterns);
  }
}

}  // namespace ptyle
