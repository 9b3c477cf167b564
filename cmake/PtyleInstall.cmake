# Two layouts. A plain prefix: lib, include, lib/cmake/ptyle, share/doc/ptyle, bin. A wheel: the same
# inside the Python package (ptyle/include, ptyle/lib/cmake/ptyle, ptyle/docs; libraries in ptyle/lib/2.15,
# by torch's minor version, so that one package may hold several; the program beside them, and among the
# environment's scripts a launcher that chooses). All RUNPATHs are relative in a wheel, so that it works
# wherever it is put.
include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

if(PTYLE_WHEEL)
  set(PTYLE_INSTALL_BASE "ptyle/")
  set(PTYLE_INSTALL_DOCS "ptyle/docs")
  set(PTYLE_INSTALL_LIB "ptyle/lib/${TORCH_WHEEL_MINOR}")
  set(PTYLE_INSTALL_BIN "${PTYLE_INSTALL_LIB}")
  set(_origin "$ORIGIN/../../..")
  set(PTYLE_RPATH_PROGRAM "$ORIGIN")
else()
  set(PTYLE_INSTALL_BASE "")
  set(PTYLE_INSTALL_DOCS "share/doc/ptyle")
  set(PTYLE_INSTALL_LIB "lib")
  set(PTYLE_INSTALL_BIN "bin")
  get_filename_component(_origin "${PTYLE_TORCH_DIR}" DIRECTORY)
  set(PTYLE_RPATH_PROGRAM "$ORIGIN/../lib")
endif()
set(PTYLE_RPATH_LIBRARY "$ORIGIN")
set(_cuda_folders ${PTYLE_CUDA_FOLDERS}) # with the libraries of torch's CUDA packages
list(TRANSFORM _cuda_folders REPLACE "(.+)" "nvidia/\\1/lib")
foreach(folder IN ITEMS torch/lib LISTS _cuda_folders)
  list(APPEND PTYLE_RPATH_PROGRAM "${_origin}/${folder}")
  list(APPEND PTYLE_RPATH_LIBRARY "${_origin}/${folder}")
endforeach()
set(PTYLE_CUDA_PATHS ${_cuda_folders})
list(TRANSFORM PTYLE_CUDA_PATHS PREPEND "${PTYLE_NVIDIA_DIR}/../")
# A program that finds the libraries of libraries too, wherever torch is: in a bundle (tests/gpu/bundle.sh).
set(PTYLE_PROGRAM_RPATH "" CACHE STRING "where the installed program looks for libraries, in place of the layout's")
if(PTYLE_PROGRAM_RPATH)
  set(PTYLE_RPATH_PROGRAM "${PTYLE_PROGRAM_RPATH}")
endif()
set(PTYLE_INSTALL_INCLUDE "${PTYLE_INSTALL_BASE}include")
set(PTYLE_INSTALL_CMAKE "${PTYLE_INSTALL_BASE}lib/cmake/ptyle")

# Called last, when the targets exist.
function(ptyle_install_package)
  install(TARGETS ptyle_ops EXPORT ptyleTargets LIBRARY DESTINATION "${PTYLE_INSTALL_LIB}")
  set_target_properties(ptyle_ops PROPERTIES INSTALL_RPATH "${PTYLE_RPATH_LIBRARY}")
  if(TARGET ptyle_ops_cuda)
    install(TARGETS ptyle_ops_cuda LIBRARY DESTINATION "${PTYLE_INSTALL_LIB}")
    # CMake drops nvcc's implicit link folder from the build tree's path; it is the wheel's cudart
    set_target_properties(ptyle_ops_cuda PROPERTIES INSTALL_RPATH "${PTYLE_RPATH_LIBRARY}"
                                                    BUILD_RPATH "${PTYLE_CUDA_PATHS}")
  endif()
  if(TARGET ptyle)
    install(TARGETS ptyle RUNTIME DESTINATION "${PTYLE_INSTALL_BIN}")
    set_target_properties(ptyle PROPERTIES INSTALL_RPATH "${PTYLE_RPATH_PROGRAM}")
    if(PTYLE_PROGRAM_RPATH) # RUNPATH is for the program's own libraries alone
      target_link_options(ptyle PRIVATE LINKER:--disable-new-dtags)
    endif()
    if(SKBUILD_SCRIPTS_DIR)
      install(PROGRAMS "${PROJECT_SOURCE_DIR}/driver/launcher.py" DESTINATION "${SKBUILD_SCRIPTS_DIR}" RENAME ptyle)
    endif()
  endif()

  install(DIRECTORY "${PROJECT_SOURCE_DIR}/ops/include/" DESTINATION "${PTYLE_INSTALL_INCLUDE}")
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/ops/docs/" DESTINATION "${PTYLE_INSTALL_DOCS}"
          FILES_MATCHING PATTERN "*.md")
  install(EXPORT ptyleTargets NAMESPACE ptyle:: DESTINATION "${PTYLE_INSTALL_CMAKE}/${TORCH_WHEEL_MINOR}")
  configure_package_config_file(
    "${PROJECT_SOURCE_DIR}/cmake/ptyleConfig.cmake.in" "${PROJECT_BINARY_DIR}/ptyleConfig.cmake"
    INSTALL_DESTINATION "${PTYLE_INSTALL_CMAKE}"
    NO_CHECK_REQUIRED_COMPONENTS_MACRO)
  write_basic_package_version_file(
    "${PROJECT_BINARY_DIR}/ptyleConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
  install(FILES "${PROJECT_BINARY_DIR}/ptyleConfig.cmake" "${PROJECT_BINARY_DIR}/ptyleConfigVersion.cmake"
                "${PROJECT_SOURCE_DIR}/cmake/TorchWheel.cmake"
          DESTINATION "${PTYLE_INSTALL_CMAKE}")
endfunction()
