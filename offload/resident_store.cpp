#include "offload/resident_store.h"

#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/program.h"

namespace strata::offload {

namespace {
constexpr Tier kDevice{TierKind::device, 0};
}

ResidentStore::ResidentStore(Plan plan, std::int64_t budget_bytes, Ledger& ledger)
    : plan_(std::move(plan)),
      arena_(kDevice, plan_.tiers[kDevice].arena_bytes, budget_bytes),
      ledger_(ledger) {}

std::span<std::byte> ResidentStore::bytes_of(PackKey key) const {
  return arena_.range(live_.at(key).offset, plan_.sizes.at(key));
}

void ResidentStore::create(PackKey key) {
  const auto offset = plan_.offset.find(key);
  if (offset == plan_.offset.end()) {
    throw Error(Errc::internal, "store: the plan has no place for " + to_string(key));
  }
  STRATA_ASSERT(!live_.contains(key));
  live_[key] = {offset->second, 0};
  ledger_.add(kDevice, to_string(key.cls), plan_.sizes.at(key));
}

void ResidentStore::destroy(PackKey key) {
  const auto it = live_.find(key);
  STRATA_ASSERT(it != live_.end() && it->second.leases == 0);
  live_.erase(it);
  ledger_.subtract(kDevice, to_string(key.cls), plan_.sizes.at(key));
}

Lease ResidentStore::acquire(PackKey key) {
  const auto it = live_.find(key);
  if (it == live_.end()) {
    throw Error(Errc::internal, "store: " + to_string(key) + " is not resident");
  }
  ++it->second.leases;
  return {*this, key, bytes_of(key)};
}

void ResidentStore::release(PackKey key) noexcept {
  if (const auto it = live_.find(key); it != live_.end()) {
    --it->second.leases;
  }
}

void ResidentStore::move(const Instruction& instruction) {
  throw Error(Errc::internal,
              "store: " + std::string(to_string(instruction.op)) +
                  " in a plan where everything is resident");
}

void ResidentStore::commit(int block) {
  // Copied, not swapped: the place of a next generation is shared with packs of other times.
  for (const auto& [current, next] : {std::pair{PackClass::weights, PackClass::weights_next},
                                      std::pair{PackClass::state, PackClass::state_next}}) {
    const auto from = bytes_of({next, block});
    std::memcpy(bytes_of({current, block}).data(), from.data(), from.size());
    destroy({next, block});
  }
}

void ResidentStore::discard(int block) {
  destroy({PackClass::weights_next, block});
  destroy({PackClass::state_next, block});
}

}  // namespace strata::offload
