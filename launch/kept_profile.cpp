#include "launch/kept_profile.h"

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "launch/bench.h"

namespace strata::launch {

namespace fs = std::filesystem;

std::string this_machine() {
  const nlohmann::json m = machine_json();
  return fmt::format("{}, {} threads, {}, {}",
                     m["processor"].get<std::string>(),
                     m["threads"].get<int>(),
                     m["isa"].get<std::string>(),
                     m["matmul"].get<std::string>());
}

fs::path profile_file() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  const bool given = cache != nullptr && *cache != '\0';
  if (!given && (home == nullptr || *home == '\0')) {
    throw Error(Errc::config,
                "bench hardware: needs a directory to keep the profile in; set XDG_CACHE_HOME");
  }
  return (given ? fs::path(cache) : fs::path(home) / ".cache") / "strata" / "hardware.json";
}

std::optional<offload::HardwareProfile> kept_profile(const fs::path& file,
                                                     const std::vector<std::string>& paths) {
  if (!fs::exists(file)) {
    return std::nullopt;
  }
  auto profile = offload::profile_from_json(io::read_text(file), file.string());
  const auto has = [&](const std::string& path) {
    return std::ranges::any_of(profile.paths,
                               [&](const auto& known) { return known.directory == path; });
  };
  const bool fits = profile.machine == this_machine() && std::ranges::all_of(paths, has);
  return fits ? std::optional(std::move(profile)) : std::nullopt;
}

}  // namespace strata::launch
