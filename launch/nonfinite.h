#pragma once
#include <cstdint>
#include <filesystem>

namespace strata::launch {

/// A step whose loss or gradient is no number.
struct NonfiniteStep {
  std::int64_t step = 0;
  double loss = 0, grad_norm = 0;
};
/// Throws numerics, saying what to do. `before`: a checkpoint of the state before the step; empty
/// where parts of it have moved already, so that there is none.
[[noreturn]] void stop_at_nonfinite(const NonfiniteStep& at, const std::filesystem::path& before);

}  // namespace strata::launch
