#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "tests/support/temp_dir.h"

namespace strata::tests {

/// How a forked child ended.
struct ChildEnd {
  int exit_code = -1;  // when it exited
  int signal = 0;      // when a signal ended it
  std::string text;    // what `body` returned, or of the exception that left it
};

/// Runs `body` in a forked child and waits. The child exits 0 when body returns and 1 when it
/// throws; it never returns into the test.
ChildEnd run_forked(const std::function<std::string()>& body);

/// The same inside a private mount namespace with an empty tmpfs of `size_bytes` mounted on
/// `mount_point`. Nothing when this process may not mount: the test then skips, naming the missing
/// right CAP_SYS_ADMIN.
std::optional<ChildEnd> run_on_small_disk(const TempDir& mount_point,
                                          std::int64_t size_bytes,
                                          const std::function<std::string()>& body);

}  // namespace strata::tests
