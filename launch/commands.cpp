#include "launch/commands.h"

#include <cstdio>
#include <string>
#include <string_view>

#include "core/error.h"

namespace strata::launch {
namespace {

constexpr std::string_view kHelp =
    R"(strata: trains language models that are larger than the memory they are trained in

usage: strata COMMAND [OPTIONS]

commands:
  --help      this text
)";

}  // namespace

int run(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "--help";
  if (command == "--help" || command == "-h") {
    std::fwrite(kHelp.data(), 1, kHelp.size(), stdout);
    return 0;
  }
  throw Error(Errc::config, "unknown command '" + std::string(command) + "'; see strata --help");
}

}  // namespace strata::launch
