#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "offload/profile.h"

namespace strata::launch {

/// Processor, threads, instruction set and library of products: what rates are of.
std::string this_machine();
/// Where `bench hardware` keeps them. Throws config where there is no directory for it.
std::filesystem::path profile_file();
/// Absent: none is kept, or one of another machine or other paths.
std::optional<offload::HardwareProfile> kept_profile(const std::filesystem::path& file,
                                                     const std::vector<std::string>& paths);

}  // namespace strata::launch
