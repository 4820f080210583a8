// strata config show|schema: every setting with its value and where it came from, or the schema of
// a file.
#include <cstdio>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/commands.h"
#include "launch/config.h"

namespace strata::launch {

int config(Words words) {
  const std::string what = words.empty() ? "" : words.front();
  if (what == "--help" || what == "-h") {
    std::printf(
        "usage: strata config show [-c run.toml] [--KEY=VALUE ...]   every setting and its origin\n"
        "       strata config schema                                JSON Schema of run.toml\n");
    return 0;
  }
  std::vector<const char*> raw;
  for (const std::string& word : words.subspan(words.empty() ? 0 : 1)) {
    raw.push_back(word.c_str());
  }
  const Arguments args = read_arguments(raw, {});
  if (what == "schema" && args.positional.empty()) {
    std::printf("%s\n", settings_schema().c_str());
    return 0;
  }
  if (what == "show" && args.positional.empty()) {
    const Settings settings({{}, args.file, process_environment(), args.settings});
    for (const auto& [key, value] : settings.values()) {
      std::printf("%-36s %-24s %s\n", key.c_str(), value.text.c_str(), value.origin.c_str());
    }
    return 0;
  }
  throw Error(Errc::config,
              fmt::format("config: needs 'show [--KEY=VALUE ...]' or 'schema', got '{}'", what));
}

}  // namespace strata::launch
