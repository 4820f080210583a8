# Every dependency is a Debian package; nothing is downloaded. launch/packages.txt lists them.
find_package(PkgConfig REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(fmt REQUIRED)

# find_package(dnnl) aborts on Debian 12: its config file asks for OpenCL.
find_path(DNNL_INCLUDE_DIR dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(strata_dnnl INTERFACE)
target_include_directories(strata_dnnl SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
target_link_libraries(strata_dnnl INTERFACE ${DNNL_LIBRARY})

pkg_check_modules(isal REQUIRED IMPORTED_TARGET libisal)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
# The C library alone; find_package(MPI) would also look for what C++ programs link.
pkg_check_modules(mpi REQUIRED IMPORTED_TARGET ompi-c)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
find_path(TOMLPLUSPLUS_INCLUDE_DIR toml++/toml.h REQUIRED)

# A package that is used where it is: STRATA_<name> is AUTO, ON or OFF, STRATA_HAS_<name> what came of it.
function(strata_optional name label module package)
  string(TOLOWER ${name} target)
  if(STRATA_${name} STREQUAL "OFF")
    set(STRATA_HAS_${name} OFF PARENT_SCOPE)
    message(STATUS "${label}: off (STRATA_${name}=OFF)")
    return()
  endif()
  pkg_check_modules(${target} IMPORTED_TARGET GLOBAL ${module})
  set(STRATA_HAS_${name} ${${target}_FOUND} PARENT_SCOPE)
  if(${target}_FOUND)
    message(STATUS "${label}: on (${module} ${${target}_VERSION})")
  elseif(STRATA_${name} STREQUAL "ON")
    message(FATAL_ERROR "STRATA_${name}=ON but ${module} was not found: install ${package}")
  else()
    message(STATUS "${label}: off (${module} not found)")
  endif()
endfunction()

strata_optional(URING io_uring liburing liburing-dev)
strata_optional(HWLOC hwloc hwloc libhwloc-dev)
