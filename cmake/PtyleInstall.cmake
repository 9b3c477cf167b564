# Two layouts. A plain prefix: lib, include, lib/cmake/ptyle, share/doc/ptyle, bin. A wheel: the same
# inside the Python package (ptyle/lib, ptyle/include, ptyle/lib/cmake/ptyle, ptyle/docs), and the
# program among the environment's scripts. All RUNPATHs are relative in a wheel, so that it works wherever it is put.
include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

if(PTYLE_WHEEL)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(PTYLE_INSTALL_BASE "ptyle/")
  set(PTYLE_INSTALL_DOCS "ptyle/docs")
  set(PTYLE_INSTALL_BIN "bin")
  if(SKBUILD_SCRIPTS_DIR)
    set(PTYLE_INSTALL_BIN "${SKBUILD_SCRIPTS_DIR}")
  endif()
  set(_site "$ORIGIN/../lib/python${Python3_VERSION_MAJOR}.${Python3_VERSION_MINOR}/site-packages")
  set(PTYLE_RPATH_PROGRAM "${_site}/ptyle/lib" "${_site}/torch/lib" "${_site}/nvidia/cu13/lib")
  set(PTYLE_RPATH_LIBRARY "$ORIGIN" "$ORIGIN/../../torch/lib" "$ORIGIN/../../nvidia/cu13/lib")
else()
  set(PTYLE_INSTALL_BASE "")
  set(PTYLE_INSTALL_DOCS "share/doc/ptyle")
  set(PTYLE_INSTALL_BIN "bin")
  set(_wheel_libraries "${PTYLE_TORCH_DIR}/lib" "${PTYLE_NVIDIA_DIR}/cu13/lib")
  set(PTYLE_RPATH_PROGRAM "$ORIGIN/../lib" ${_wheel_libraries})
  set(PTYLE_RPATH_LIBRARY "$ORIGIN" ${_wheel_libraries})
endif()
set(PTYLE_INSTALL_LIB "${PTYLE_INSTALL_BASE}lib")
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
                                                    BUILD_RPATH "${PTYLE_NVIDIA_DIR}/cu13/lib")
  endif()
  if(TARGET ptyle)
    install(TARGETS ptyle RUNTIME DESTINATION "${PTYLE_INSTALL_BIN}")
    set_target_properties(ptyle PROPERTIES INSTALL_RPATH "${PTYLE_RPATH_PROGRAM}")
  endif()

  install(DIRECTORY "${PROJECT_SOURCE_DIR}/ops/include/" DESTINATION "${PTYLE_INSTALL_INCLUDE}")
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/ops/docs/" DESTINATION "${PTYLE_INSTALL_DOCS}"
          FILES_MATCHING PATTERN "*.md")
  install(EXPORT ptyleTargets NAMESPACE ptyle:: DESTINATION "${PTYLE_INSTALL_CMAKE}")
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
