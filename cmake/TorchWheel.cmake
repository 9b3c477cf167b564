# Imported targets for the LibTorch inside an installed PyTorch wheel, without TorchConfig.cmake
# (which needs a CUDA toolkit even for a CPU build and mixes its NCCL with the wheel's).
#
# The wheel is looked for, in this order: in PTYLE_TORCH_ROOT (the wheel's "torch" folder), in Torch_DIR (the
# folder of its TorchConfig.cmake, as find_package(Torch) takes it), in the environment's variables of these
# names, beside this file's own package (ptyle installed into the same site-packages), with Python3.
# Result: TorchWheel_FOUND, or TorchWheel_REASON; torchwheel::cpu; PTYLE_TORCH_DIR (the folder
# found), TORCH_WHEEL_VERSION, TORCH_WHEEL_MINOR (2.15), TORCH_WHEEL_CUDA (the CUDA version the wheel was
# built with), PTYLE_CUDA_FOLDERS (of its CUDA packages, that CUDA's version decides upon).
# No include_guard: after a failure another call may name another folder, and must be told why again.
set(_tw_results PTYLE_TORCH_DIR PTYLE_NVIDIA_DIR PTYLE_CUDA_FOLDERS TORCH_WHEEL_VERSION TORCH_WHEEL_MINOR
                TORCH_WHEEL_CUDA)
if(TARGET torchwheel::cpu) # found from another folder of the project
  foreach(name IN LISTS _tw_results)
    get_property(${name} GLOBAL PROPERTY TORCHWHEEL_${name})
  endforeach()
  set(TorchWheel_FOUND TRUE)
  return()
endif()

set(TorchWheel_FOUND FALSE)
set(TorchWheel_REASON "")

get_filename_component(_tw_beside "${CMAKE_CURRENT_LIST_DIR}/../../../../torch" ABSOLUTE)
if(PTYLE_TORCH_ROOT)
  get_filename_component(PTYLE_TORCH_DIR "${PTYLE_TORCH_ROOT}" ABSOLUTE)
elseif(Torch_DIR)
  get_filename_component(PTYLE_TORCH_DIR "${Torch_DIR}/../../.." ABSOLUTE)
elseif(NOT "$ENV{PTYLE_TORCH_ROOT}" STREQUAL "")
  get_filename_component(PTYLE_TORCH_DIR "$ENV{PTYLE_TORCH_ROOT}" ABSOLUTE)
elseif(NOT "$ENV{Torch_DIR}" STREQUAL "")
  get_filename_component(PTYLE_TORCH_DIR "$ENV{Torch_DIR}/../../.." ABSOLUTE)
elseif(EXISTS "${_tw_beside}/lib/libtorch_cpu.so")
  set(PTYLE_TORCH_DIR "${_tw_beside}")
else()
  find_package(Python3 QUIET COMPONENTS Interpreter)
  set(PTYLE_TORCH_DIR "")
  if(Python3_Interpreter_FOUND)
    execute_process( # find_spec does not import torch, which would take seconds
      COMMAND "${Python3_EXECUTABLE}" -c
              "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE PTYLE_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()

if(EXISTS "${PTYLE_TORCH_DIR}/lib/libtorch_cpu.so" AND EXISTS "${PTYLE_TORCH_DIR}/build-version")
  string(CONCAT TorchWheel_REASON
         "${PTYLE_TORCH_DIR} is LibTorch's archive, whose libraries lie and are named otherwise; "
         "set PTYLE_TORCH_ROOT to the folder \"torch\" of a PyTorch wheel, inside site-packages")
  return()
elseif(NOT EXISTS "${PTYLE_TORCH_DIR}/lib/libtorch_cpu.so" OR NOT EXISTS "${PTYLE_TORCH_DIR}/version.py")
  string(CONCAT TorchWheel_REASON
         "no PyTorch wheel found (looked in PTYLE_TORCH_ROOT=\"${PTYLE_TORCH_ROOT}$ENV{PTYLE_TORCH_ROOT}\""
         ", in Torch_DIR=\"${Torch_DIR}$ENV{Torch_DIR}\", beside the package and with "
         "Python3_EXECUTABLE=\"${Python3_EXECUTABLE}\"); "
         "set PTYLE_TORCH_ROOT to the folder \"torch\" inside site-packages")
  return()
endif()

file(STRINGS "${PTYLE_TORCH_DIR}/version.py" _tw_line REGEX "^__version__")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" TORCH_WHEEL_VERSION "${_tw_line}")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" TORCH_WHEEL_MINOR "${TORCH_WHEEL_VERSION}")
file(STRINGS "${PTYLE_TORCH_DIR}/version.py" _tw_line REGEX "^cuda")
string(REGEX MATCH "[0-9]+\\.[0-9]+" TORCH_WHEEL_CUDA "${_tw_line}")

get_filename_component(_tw_site "${PTYLE_TORCH_DIR}" DIRECTORY)
set(PTYLE_NVIDIA_DIR "${_tw_site}/nvidia")
# All of CUDA 13 is one folder, CUDA 12 had one for each of its packages.
if(TORCH_WHEEL_CUDA VERSION_GREATER_EQUAL 13)
  set(PTYLE_CUDA_FOLDERS cu13)
else()
  set(PTYLE_CUDA_FOLDERS cuda_runtime cufft cuda_cupti cuda_nvcc cublas cusparse cusolver nvtx)
endif()

# Imported targets' include folders are system folders for whoever links them: no warnings from
# torch's headers, so that warnings can be errors in our code.
function(torchwheel_import name file)
  add_library(torchwheel::${name} SHARED IMPORTED GLOBAL)
  set_target_properties(torchwheel::${name} PROPERTIES IMPORTED_LOCATION "${file}")
  if(ARGN)
    set_target_properties(torchwheel::${name} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${ARGN}")
  endif()
endfunction()

set(_tw_includes "${PTYLE_TORCH_DIR}/include" "${PTYLE_TORCH_DIR}/include/torch/csrc/api/include")
torchwheel_import(c10 "${PTYLE_TORCH_DIR}/lib/libc10.so" ${_tw_includes})
torchwheel_import(torch_cpu "${PTYLE_TORCH_DIR}/lib/libtorch_cpu.so" ${_tw_includes})
torchwheel_import(gomp "${PTYLE_TORCH_DIR}/lib/libgomp.so.1")

set(_tw_link_options "")
foreach(folder IN LISTS PTYLE_CUDA_FOLDERS ITEMS nccl cudnn)
  list(APPEND _tw_link_options "-Wl,-rpath-link,${PTYLE_NVIDIA_DIR}/${folder}/lib")
endforeach()
add_library(torchwheel::cpu INTERFACE IMPORTED GLOBAL)
set_target_properties(
  torchwheel::cpu
  PROPERTIES
    INTERFACE_COMPILE_DEFINITIONS "USE_DISTRIBUTED;USE_C10D_GLOO;USE_RPC;USE_TENSORPIPE"
    INTERFACE_COMPILE_FEATURES cxx_std_20
    # without -fopenmp the header-only at::parallel_for runs serially, silently
    INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:-fopenmp>"
    # the wheel's own libgomp: one copy in the process, and one pool of threads
    INTERFACE_LINK_LIBRARIES "torchwheel::torch_cpu;torchwheel::c10;torchwheel::gomp"
    # libtorch_cpu needs libcudart and libcupti; ld must find them when it links a program
    INTERFACE_LINK_OPTIONS
    "${_tw_link_options}")

foreach(name IN LISTS _tw_results)
  set_property(GLOBAL PROPERTY TORCHWHEEL_${name} "${${name}}")
endforeach()
set(TorchWheel_FOUND TRUE)
