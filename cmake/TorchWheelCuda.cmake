# The CUDA half of TorchWheel: enables the language with the nvcc that CudaChoice has found, the wheel's own
# (the pip package cuda-toolkit[nvcc]) or one of the same version, and makes torchwheel::cudart, torchwheel::cufft and torchwheel::cuda. Include after TorchWheel, in the
# top folder.
include_guard(GLOBAL)

set(CMAKE_CUDA_COMPILER "${PTYLE_NVCC}") # CudaChoice has found it
set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
# Code for sm_80 (which all of 8.x runs) and sm_90, and PTX that the driver compiles for anything newer.
set(CMAKE_CUDA_ARCHITECTURES
    "80-real;90-real;90-virtual"
    CACHE STRING "architectures of the CUDA library")
set(CMAKE_CUDA_RUNTIME_LIBRARY None) # the wheel's libcudart, not a second, static one
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know nvcc's C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

# pip's packages hold no unversioned .so: full paths
torchwheel_import(c10_cuda "${PTYLE_TORCH_DIR}/lib/libc10_cuda.so")
torchwheel_import(torch_cuda "${PTYLE_TORCH_DIR}/lib/libtorch_cuda.so")
function(torchwheel_import_cuda name) # lib${name}.so.NUMBER in one of the CUDA folders
  foreach(folder IN LISTS PTYLE_CUDA_FOLDERS)
    file(GLOB found "${PTYLE_NVIDIA_DIR}/${folder}/lib/lib${name}.so.[0-9]*")
    if(found)
      list(GET found 0 file)
      torchwheel_import(${name} "${file}")
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "there is no lib${name}.so in ${PTYLE_NVIDIA_DIR}, where torch's CUDA packages are")
endfunction()
torchwheel_import_cuda(cudart)
torchwheel_import_cuda(cufft)
torchwheel_import(nccl "${PTYLE_NVIDIA_DIR}/nccl/lib/libnccl.so.2" "${PTYLE_NVIDIA_DIR}/nccl/include")
# What the wheel's own header says: a toolkit's, which may be older, must not come before it.
set(_tw_nccl 0)
foreach(part MAJOR MINOR PATCH)
  file(STRINGS "${PTYLE_NVIDIA_DIR}/nccl/include/nccl.h" _tw_line REGEX "^#define NCCL_${part} ")
  string(REGEX MATCH "[0-9]+" _tw_line "${_tw_line}")
  math(EXPR _tw_nccl "${_tw_nccl} * 100 + ${_tw_line}")
endforeach()
set_target_properties(
  torchwheel::nccl PROPERTIES INTERFACE_COMPILE_DEFINITIONS "USE_C10D_NCCL;PTYLE_NCCL_VERSION=${_tw_nccl}")

set(_tw_cuda_includes "")
foreach(folder IN LISTS PTYLE_CUDA_FOLDERS)
  if(EXISTS "${PTYLE_NVIDIA_DIR}/${folder}/include")
    list(APPEND _tw_cuda_includes "${PTYLE_NVIDIA_DIR}/${folder}/include")
  endif()
endforeach()

add_library(torchwheel::cuda INTERFACE IMPORTED GLOBAL)
set_target_properties(
  torchwheel::cuda
  PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_tw_cuda_includes}"
    # libtorch_cuda only registers itself: as-needed would drop it and CUDA would stay unknown
    INTERFACE_LINK_LIBRARIES
    "torchwheel::cpu;-Wl,--push-state,--no-as-needed;torchwheel::torch_cuda;-Wl,--pop-state;torchwheel::c10_cuda;torchwheel::cudart"
)
