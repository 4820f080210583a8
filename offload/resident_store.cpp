#include "offload/resident_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/program.h"

namespace strata::offload {

namespace {
constexpr Tier kDevice{TierKind::device, 0};
}

ResidentStore::ResidentStore(const Plan& plan, std::int64_t budget_bytes, Ledger& ledger)
    : arena_(kDevice, plan.tiers.at(kDevice).arena_bytes, budget_bytes),
      ledger_(ledger),
      places_(places_of(plan)) {}

std::vector<ResidentStore::Place> ResidentStore::places_of(const Plan& plan) {
  std::vector<Place> places;
  for (const auto& [key, offset] : plan.offset) {  // in the order of the keys
    places.push_back({.key = key, .offset = offset, .size_bytes = plan.sizes.at(key)});
  }
  return places;
}

void ResidentStore::adopt(const Plan& plan) {
  std::vector<Place> before = std::exchange(places_, places_of(plan));
  STRATA_ASSERT(plan.tiers.at(kDevice).arena_bytes <= arena_.size_bytes());
  for (const Place& old : before) {
    if (old.live) {
      Place* const place = find(old.key);
      STRATA_ASSERT(place != nullptr && place->offset == old.offset &&
                    place->size_bytes == old.size_bytes && old.leases == 0);
      place->live = true;
    }
  }
}

ResidentStore::Place* ResidentStore::find(PackKey key) {
  const auto at = std::ranges::lower_bound(places_, key, {}, &Place::key);
  return at != places_.end() && at->key == key ? &*at : nullptr;
}

ResidentStore::Place& ResidentStore::resident(PackKey key) {
  Place* const place = find(key);
  if (place == nullptr || !place->live) {
    throw Error(Errc::internal, "store: " + to_string(key) + " is not resident");
  }
  return *place;
}

std::span<std::byte> ResidentStore::bytes_of(const Place& place) const {
  return arena_.range(place.offset, place.size_bytes);
}

void ResidentStore::create(PackKey key) {
  Place* const place = find(key);
  if (place == nullptr) {
    throw Error(Errc::internal, "store: the plan has no place for " + to_string(key));
  }
  STRATA_ASSERT(!place->live);
  place->live = true;
  ledger_.add(kDevice, to_string(key.cls), place->size_bytes);
}

void ResidentStore::destroy(PackKey key) {
  Place& place = resident(key);
  STRATA_ASSERT(place.leases == 0);
  place.live = false;
  ledger_.subtract(kDevice, to_string(key.cls), place.size_bytes);
}

Lease ResidentStore::acquire(PackKey key) {
  Place& place = resident(key);
  ++place.leases;
  return {*this, key, bytes_of(place)};
}

void ResidentStore::release(PackKey key) noexcept {
  if (Place* const place = find(key); place != nullptr) {
    --place->leases;
  }
}

void ResidentStore::move(const Instruction& instruction) {
  throw Error(Errc::internal,
              "store: " + std::string(to_string(instruction.op)) +
                  " in a plan where everything is resident");
}

void ResidentStore::commit(int block) {
  // Copied, not swapped: the place of a next generation is shared with packs of other times.
  for (const auto& [current, next] :
       {std::pair{PackClass::weights, PackClass::weights_next},
        std::pair{PackClass::state, PackClass::state_next},
        std::pair{PackClass::turn_state, PackClass::turn_state_next}}) {
    if (const Place* const place = find({next, block}); place == nullptr || !place->live) {
      continue;
    }
    const auto from = bytes_of(resident({next, block}));
    std::memcpy(bytes_of(resident({current, block})).data(), from.data(), from.size());
    destroy({next, block});
  }
}

void ResidentStore::discard(int block) {
  destroy({PackClass::weights_next, block});
  destroy({PackClass::state_next, block});
  if (const Place* const turn = find({PackClass::turn_state_next, block});
      turn != nullptr && turn->live) {
    destroy(turn->key);
  }
}

}  // namespace strata::offload
