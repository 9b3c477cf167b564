// Gloo's classes are inside libtorch_cpu, its headers are not in the wheel: what torch's
// ProcessGroupGloo.hpp names of them, for where no Gloo is installed.
#pragma once
