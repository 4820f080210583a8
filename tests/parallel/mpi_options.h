#pragma once
#include <cstdlib>
#include <sstream>
#include <string>

#include "parallel/mpi_communicator.h"

namespace strata::parallel {

/// Variable through which a test tells the ranks that it starts what to do.
inline constexpr const char* kTestVariable = "STRATA_TEST_RANKS";

/// "path=network box=4096 limit=3 timeout=2 scenario=sleep", any of these.
inline std::string test_word(const std::string& name) {
  const char* const text = std::getenv(kTestVariable);
  std::istringstream words(text == nullptr ? "" : text);
  for (std::string word; words >> word;) {
    if (word.starts_with(name + "=")) {
      return word.substr(name.size() + 1);
    }
  }
  return {};
}

inline MpiOptions test_options() {
  const auto number = [](const char* name, std::int64_t otherwise) {
    const std::string text = test_word(name);
    return text.empty() ? otherwise : std::stoll(text);
  };
  MpiOptions options;
  if (const std::string path = test_word("path"); !path.empty()) {
    options.path = path == "window" ? MpiOptions::Path::window : MpiOptions::Path::network;
  }
  options.box_bytes = number("box", 0);
  options.message_limit_bytes = number("limit", options.message_limit_bytes);
  options.timeout_seconds = static_cast<double>(number("timeout", 60));
  return options;
}

}  // namespace strata::parallel
