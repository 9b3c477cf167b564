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

# Its parts must be of one version, and pip alone does not see to that.
if(PTYLE_CUDA)
  foreach(folder IN LISTS PTYLE_CUDA_FOLDERS)
    if(EXISTS "${PTYLE_NVIDIA_DIR}/${folder}/bin/nvcc")
      set(PTYLE_NVCC "${PTYLE_NVIDIA_DIR}/${folder}/bin/nvcc")
    endif()
  endforeach()
  set(_cc_packages "")
  set(_cc_versions "")
  foreach(package nvidia_cuda_nvcc nvidia_cuda_crt nvidia_nvvm)
    file(GLOB _cc_found "${PTYLE_NVIDIA_DIR}/../${package}-*.dist-info")
    string(REGEX MATCH "-([0-9]+\\.[0-9]+)[^-]*\\.dist-info" _cc_match "${_cc_found}")
    if(_cc_match)
      list(APPEND _cc_versions "${CMAKE_MATCH_1}")
      string(REPLACE "_" "-" package "${package}")
      string(APPEND _cc_packages " ${package} ${CMAKE_MATCH_1}")
    endif()
  endforeach()
  list(REMOVE_DUPLICATES _cc_versions)
  list(LENGTH _cc_versions _cc_count)
  if(NOT PTYLE_NVCC OR _cc_count GREATER 1)
    set(_cc_why "there is no nvcc in ${PTYLE_NVIDIA_DIR}")
    if(PTYLE_NVCC)
      set(_cc_why "the parts of nvcc are of several versions:${_cc_packages}")
    endif()
    set(_cc_minor "${TORCH_WHEEL_CUDA}")
    message(
      FATAL_ERROR
        "CUDA cannot be compiled: ${_cc_why}. Install torch's own (pip install "
        "\"nvidia-cuda-nvcc==${_cc_minor}.*\" \"nvidia-cuda-crt==${_cc_minor}.*\" \"nvidia-nvvm==${_cc_minor}.*\") "
        "or build without CUDA (PTYLE_CUDA=off in the environment, or -DPTYLE_CUDA=OFF)")
  endif()
endif()
