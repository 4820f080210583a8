#include "launch/model_bytes.h"

namespace strata::launch {

std::vector<ModelBytes> gather_model_bytes(Communicator& ranks, const Ledger& ledger) {
  const auto labels = ledger.labels({TierKind::device, 0});
  const auto peak = [&](const char* label) {
    const auto found = labels.find(label);
    return found == labels.end() ? 0 : found->second.peak;
  };
  const ModelBytes mine{peak("weights"), peak("grads"), peak("state") + peak("turn_state")};
  std::vector<ModelBytes> all(static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
  return all;
}

}  // namespace strata::launch
