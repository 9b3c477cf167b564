# Whether ptyle is built for the torch that TorchWheel found: the minor versions of torch-versions.txt. A
# newer one may do, and is tried.
set(_tv_file "${CMAKE_CURRENT_LIST_DIR}/torch-versions.txt")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${_tv_file}")
file(STRINGS "${_tv_file}" _tv_lines REGEX "^[0-9]")
set(_tv_minors "")
foreach(line IN LISTS _tv_lines)
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" _tv_minor "${line}")
  list(APPEND _tv_minors "${_tv_minor}")
endforeach()
list(GET _tv_minors 0 _tv_oldest)
list(GET _tv_minors -1 _tv_newest)
if(TORCH_WHEEL_MINOR VERSION_LESS _tv_oldest)
  message(
    FATAL_ERROR "ptyle is built for PyTorch ${_tv_oldest} to ${_tv_newest}, "
                "found ${TORCH_WHEEL_VERSION} in ${PTYLE_TORCH_DIR}")
elseif(TORCH_WHEEL_MINOR VERSION_GREATER _tv_newest)
  message(
    WARNING "PyTorch ${TORCH_WHEEL_VERSION} in ${PTYLE_TORCH_DIR} is newer than what ptyle was tested with, "
            "${_tv_oldest} to ${_tv_newest}")
endif()

# pip's metadata are written without CMake: they must not name another.
if(SKBUILD)
  execute_process(COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/requirements_of_package.py"
                  OUTPUT_VARIABLE _tv_needs OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT _tv_needs STREQUAL "torch==${TORCH_WHEEL_MINOR}.*")
    message(
      FATAL_ERROR "the package would need ${_tv_needs}, found ${TORCH_WHEEL_VERSION} in ${PTYLE_TORCH_DIR} to compile "
                  "it with: name that one in the environment, PTYLE_TORCH_ROOT=${PTYLE_TORCH_DIR}")
  endif()
endif()
