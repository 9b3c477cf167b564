# What our own targets have in common. Flags are set per target, never globally, so that third-party
# code and outside projects keep theirs.
include_guard(GLOBAL)

# ptyle_warnings(TARGET): our warnings, all of them errors.
function(ptyle_warnings target)
  target_compile_options(
    ${target}
    PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wconversion;-Werror>
            # nvcc's own host code is not -Wpedantic clean
            $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror>)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
  if(PTYLE_SANITIZE)
    target_compile_options(
      ${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${PTYLE_SANITIZE};-fno-omit-frame-pointer>
                        $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU") # what it says wrongly of instrumented code
      target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
    endif()
    if(PTYLE_SANITIZE MATCHES "thread") # fences, in torch's headers, are what it cannot follow
      target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan>)
    endif()
    target_link_options(${target} PRIVATE -fsanitize=${PTYLE_SANITIZE})
  else() # a hidden symbol used across libraries fails here, not when the library is loaded
    get_target_property(type ${target} TYPE)
    if(type STREQUAL "SHARED_LIBRARY")
      target_link_options(${target} PRIVATE LINKER:-z,defs)
    endif()
  endif()
endfunction()

# ptyle_system_libraries(TARGET SCOPE LIBRARY...): link third-party libraries whose headers are
# system headers, also where their package does not say so.
function(ptyle_system_libraries target scope)
  foreach(library IN LISTS ARGN)
    target_link_libraries(${target} ${scope} ${library})
    if(TARGET ${library})
      target_include_directories(
        ${target} SYSTEM ${scope} $<TARGET_PROPERTY:${library},INTERFACE_INCLUDE_DIRECTORIES>)
    endif()
  endforeach()
endfunction()

# ptyle_tests(TARGET LABELS label... [TIMEOUT seconds]): every case of a GoogleTest program as a
# ctest test. Under a sanitizer the program is one test: starting it takes seconds there.
function(ptyle_tests target)
  cmake_parse_arguments(arg "" "TIMEOUT" "LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(PTYLE_SANITIZE)
    add_test(NAME ${target} COMMAND ${target})
    set_tests_properties(
      ${target}
      PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 900
                 ENVIRONMENT "PTYLE_DATA=${PTYLE_DATA};UBSAN_OPTIONS=print_stacktrace=1")
  else()
    gtest_discover_tests(
      ${target}
      DISCOVERY_TIMEOUT 120
      PROPERTIES TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "PTYLE_DATA=${PTYLE_DATA}")
    # gtest_discover_tests takes its properties apart at semicolons: several labels come afterwards
    set(labels_file "${CMAKE_CURRENT_BINARY_DIR}/${target}_labels.cmake")
    file(WRITE "${labels_file}"
         "set_tests_properties(\${${target}_TESTS} PROPERTIES LABELS \"${arg_LABELS}\")\n")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${labels_file}")
  endif()
endfunction()
