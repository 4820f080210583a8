#pragma once
#include <filesystem>

#include "core/runtime.h"

namespace strata::cpu {

/// Host memory that this process may still take: MemAvailable, or what the tightest enclosing
/// cgroup (v2 or v1) still allows if that is less. `root` stands for "/" in tests.
MemoryInfo host_memory_info(const std::filesystem::path& root = "/");

}  // namespace strata::cpu
