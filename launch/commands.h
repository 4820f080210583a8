#pragma once

namespace strata::launch {

/// Parses the command line and runs one command. Returns the exit code; throws Error.
int run(int argc, char** argv);

}  // namespace strata::launch
