# Settings every target of ours shares. Contraction off: the bytes of a rule agree over instruction sets.
add_library(strata_settings INTERFACE)
target_include_directories(strata_settings INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(strata_settings INTERFACE
  -O3 -ffp-contract=off -fno-math-errno -fopenmp-simd
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion
  -Wno-restrict)  # g++ 12 warns of its own std::string (GCC bug 105651)
if(STRATA_SANITIZE)
  target_compile_options(strata_settings INTERFACE -fsanitize=${STRATA_SANITIZE} -fno-omit-frame-pointer -g -O1)
  target_link_options(strata_settings INTERFACE -fsanitize=${STRATA_SANITIZE})
endif()

# A room is a folder, a target and a unit of dependency. Sources are globbed so that a new op, rule or reader is one file.
# OBJECT libraries: the linker may not drop a file that only registers itself.
function(strata_room name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  if(sources)
    add_library(strata_${name} OBJECT ${sources})
    set(scope PUBLIC)
  else()
    add_library(strata_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(strata::${name} ALIAS strata_${name})
  target_link_libraries(strata_${name} ${scope} strata_settings)
  if(NOT name STREQUAL "core")
    target_link_libraries(strata_${name} ${scope} strata::core)
  endif()
endfunction()
