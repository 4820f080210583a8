#pragma once
#include <span>
#include <string>
#include <vector>

namespace strata::launch {

/// Parses the command line and runs one command. Returns the exit code; throws Error.
int run(int argc, char** argv);

using Words = std::span<const std::string>;

// One function a command, in <command>.cpp. Each takes the words behind its name.
int train(Words words);
int resume(Words words);
int plan(Words words);
int evaluate(Words words);
int generate(Words words);
int import_model(Words words);
int inspect(Words words);
int doctor(Words words);
int demo(Words words);
int config(Words words);
int bench(Words words);

}  // namespace strata::launch
