# The option PTYLE_CUDA, after TorchWheel: -DPTYLE_CUDA, else the environment's PTYLE_CUDA, else on
# where torch is one with CUDA for x86_64. Never off without having been asked: what pip's builds
# print is seen by nobody, and a package without CUDA is missed much later, on another machine.
include_guard(GLOBAL)

set(_cc_default OFF)
if(NOT PTYLE_SANITIZE AND TORCH_WHEEL_CUDA AND CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  set(_cc_default ON)
endif()
if(DEFINED ENV{PTYLE_CUDA})
  string(TOUPPER "$ENV{PTYLE_CUDA}" _cc_asked)
  if(NOT _cc_asked MATCHES "^(ON|OFF|1|0)$")
    message(FATAL_ERROR "PTYLE_CUDA must be on or off in the environment, got \"$ENV{PTYLE_CUDA}\"")
  endif()
  set(_cc_default "${_cc_asked}")
endif()
option(PTYLE_CUDA "build the CUDA operator library" ${_cc_default})
if(PTYLE_CUDA AND NOT EXISTS "${PTYLE_NVIDIA_DIR}/cu13/bin/nvcc")
  message(
    FATAL_ERROR
      "CUDA cannot be compiled: there is no ${PTYLE_NVIDIA_DIR}/cu13/bin/nvcc. Install it "
      "(pip install \"cuda-toolkit[nvcc]\") or build without CUDA (PTYLE_CUDA=off in the environment, "
      "or -DPTYLE_CUDA=OFF)")
endif()
