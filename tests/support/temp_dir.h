#pragma once
#include <filesystem>

namespace strata::tests {

/// A fresh directory, removed with everything in it at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// A file of the test data (STRATA_TEST_DATA, default ../shared/data beside the checkout). Empty
/// when absent; tests then skip, naming it.
std::filesystem::path test_data(const std::filesystem::path& relative);

}  // namespace strata::tests
