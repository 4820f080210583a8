#include "core/io/errors.h"

#include <cerrno>
#include <system_error>

#include <fmt/format.h>
#include <sys/statvfs.h>

namespace strata::io {

Error io_error(const std::filesystem::path& path, std::string_view operation, int error_number) {
  std::string message = fmt::format("io: {} of '{}' failed: {}",
                                    operation,
                                    path.string(),
                                    std::generic_category().message(error_number));
  if (error_number == EDQUOT) {
    message += "; free space in your quota or choose a directory on another file system";
  }
  if (error_number == EFBIG) {
    message += "; raise the limit on file sizes (ulimit -f) or choose another file system";
  }
  if (error_number == ENOSPC) {
    struct statvfs status {};
    const std::filesystem::path directory = path.has_parent_path() ? path.parent_path() : ".";
    const bool known = ::statvfs(directory.c_str(), &status) == 0;
    message += known ? fmt::format("; {} bytes are free there", status.f_bavail * status.f_frsize)
                     : "; the file system does not say how much is free";
    message += ": delete files or choose a directory on another file system";
  }
  return Error(Errc::io, message);
}

}  // namespace strata::io
