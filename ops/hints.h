// Warnings that operators give once in a process.
#pragma once

#include "ptyle/ops.h"  // PTYLE_API

namespace ptyle {

enum class Hint { kSlowSize, kNegativeCounts };

// Whether the hint was neither given nor silenced before; from now on it was.
PTYLE_API bool is_first(Hint hint);
// No operator gives the hint from now on: the program has said it.
PTYLE_API void silence(Hint hint);

}  // namespace ptyle
