#include "ops/hints.h"

#include <array>
#include <atomic>
#include <cstddef>

namespace ptyle {
namespace {

std::array<std::atomic<bool>, 2> given{};

}  // namespace

bool is_first(Hint hint) { return !given[static_cast<std::size_t>(hint)].exchange(true); }

void silence(Hint hint) { given[static_cast<std::size_t>(hint)] = true; }

}  // namespace ptyle
