#pragma once
#include <filesystem>
#include <string_view>

#include "core/error.h"

namespace strata::io {

/// Errc::io: operation, path and the system's reason. A full disk says how many bytes are free and
/// what to do.
Error io_error(const std::filesystem::path& path, std::string_view operation, int error_number);

}  // namespace strata::io
