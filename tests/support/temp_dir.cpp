#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <string>
#include <system_error>

namespace strata::tests {

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "strata-test-XXXXXX").string();
  path_ = mkdtemp(pattern.data());
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path test_data(const std::filesystem::path& relative) {
  const char* set = std::getenv("STRATA_TEST_DATA");
  const std::filesystem::path root =
      set != nullptr ? set : std::filesystem::path(STRATA_SOURCE_DIR) / ".." / "shared" / "data";
  return exists(root / relative) ? root / relative : std::filesystem::path();
}

}  // namespace strata::tests
