#include "launch/nonfinite.h"

#include <fmt/format.h>

#include "core/error.h"

namespace strata::launch {

void stop_at_nonfinite(const NonfiniteStep& at, const std::filesystem::path& before) {
  const std::string kept =
      before.empty() ? "with numerics.update = immediate some blocks have moved in it, so nothing "
                       "was saved"
                     : fmt::format("{} holds the state before it", before.string());
  throw Error(
      Errc::numerics,
      fmt::format("train: step {} has a loss of {} and a gradient norm of {}; {}; resume an "
                  "earlier checkpoint with a lower train.schedule.lr, or look at the data of this "
                  "step",
                  at.step,
                  at.loss,
                  at.grad_norm,
                  kept));
}

}  // namespace strata::launch
