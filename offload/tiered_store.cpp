#include "offload/tiered_store.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace strata::offload {
namespace {

using Clock = std::chrono::steady_clock;

#ifdef NDEBUG
constexpr bool kMarkDeadBytes = false;
#else
constexpr bool kMarkDeadBytes = true;  // so that reading them shows
#endif

/// What the books refuse is a mistake of the program's author, not of its user.
void require(const std::string& wrong) {
  if (!wrong.empty()) {
    throw Error(Errc::internal, "store: " + wrong);
  }
}

}  // namespace

TieredStore::TieredStore(const Plan& plan,
                         const Budgets& budgets,
                         Ledger& ledger,
                         NvmeConfig nvme,
                         const Paces& paces,
                         const MemoryConfig& memory)
    : ledger_(ledger), arenas_(make_arenas(plan, budgets, memory)), places_(places_of(plan)) {
  for (const auto& [from, source] : arenas_) {
    for (const auto& [to, destination] : arenas_) {
      if (from != to) {
        const auto pace = paces.find({from, to});
        copies_.try_emplace({from, to}, pace == paces.end() ? 0 : pace->second);
      }
    }
  }
  std::vector<ExtentSpec> extents;
  for (const Place& place : places_) {
    if (place.extent >= 0) {
      extents.push_back({to_string(place.replica.key), place.size_bytes, 1});
    }
  }
  if (!extents.empty()) {
    std::vector<std::span<std::byte>> registered;
    for (const auto& [tier, arena] : arenas_) {
      registered.push_back(arena.range(0, arena.size_bytes()));
    }
    nvme.registered = registered;
    nvme_ = std::make_unique<NvmeStore>(std::move(nvme), std::move(extents));
  }
}

TieredStore::~TieredStore() = default;

std::vector<TieredStore::Place> TieredStore::places_of(const Plan& plan) const {
  std::vector<Place> places;
  int extents = 0;
  for (const auto& [replica, offset] : plan.offset) {  // in order
    const bool in_file = replica.tier.kind == TierKind::nvme;
    places.push_back({.replica = replica,
                      .own = offset,
                      .size_bytes = plan.sizes.at(replica.key),
                      .offset = offset,
                      .extent = in_file ? extents++ : -1});
  }
  return places;
}

void TieredStore::adopt(const Plan& plan) {
  const std::vector<Place> before = std::exchange(places_, places_of(plan));
  for (const auto& [tier, planned] : plan.tiers) {
    STRATA_ASSERT(tier.kind != TierKind::nvme &&
                  planned.arena_bytes <= arenas_.at(tier).size_bytes());
  }
  for (const Place& old : before) {
    if (residency_.exists(old.replica)) {
      const Place* const place = find(old.replica);
      STRATA_ASSERT(place != nullptr && place->own == old.offset &&
                    place->size_bytes == old.size_bytes && residency_.settled(old.replica));
    }
  }
}

TieredStore::Place* TieredStore::find(const Replica& replica) {
  const auto at = std::ranges::lower_bound(places_, replica, {}, &Place::replica);
  return at != places_.end() && at->replica == replica ? &*at : nullptr;
}

TieredStore::Place& TieredStore::place_of(const Replica& replica) {
  Place* const place = find(replica);
  if (place == nullptr) {
    throw Error(Errc::internal, "store: the plan has no place for " + to_string(replica));
  }
  return *place;
}

std::span<std::byte> TieredStore::bytes_of(const Place& place) const {
  if (place.extent >= 0) {
    throw Error(Errc::internal, "store: nothing computes with " + to_string(place.replica));
  }
  STRATA_ASSERT(place.offset >= 0);
  return arenas_.at(place.replica.tier).range(place.offset, place.size_bytes);
}

void TieredStore::count(const Place& place, bool added) {
  const std::string_view label = to_string(place.replica.key.cls);
  if (added) {
    return ledger_.add(place.replica.tier, label, place.size_bytes);
  }
  ledger_.subtract(place.replica.tier, label, place.size_bytes);
  if (kMarkDeadBytes && place.extent < 0) {
    const auto bytes = bytes_of(place);
    std::memset(bytes.data(), 0xDB, bytes.size());
  }
}

void TieredStore::create_replica(const Replica& replica) {
  Place& place = place_of(replica);
  require(residency_.create(replica));
  place.offset = place.own;
  count(place, true);
}

void TieredStore::destroy_replica(const Replica& replica) {
  require(residency_.destroy(replica));
  count(place_of(replica), false);
}

Lease TieredStore::lease(const Replica& replica, Access access) {
  require(residency_.begin_use(replica, access));
  return {*this, replica, access, bytes_of(place_of(replica))};
}

void TieredStore::release(const Replica& replica, Access access) noexcept {
  residency_.end_use(replica, access);
}

void TieredStore::start(const Instruction& move) {
  Place& from = place_of({move.key(), move.source});
  Place& to = place_of({move.key(), move.tier});
  require(residency_.start(move));
  if (move.op == Op::evict && move.clean) {
    return;
  }
  if (move.op != Op::evict) {
    to.offset = move.offset >= 0 ? move.offset : to.own;
    count(to, true);
  }
  copy(to, from);
}

void TieredStore::copy(Place& to, const Place& from) {
  if (to.extent >= 0) {
    file_bytes_.written += std::ssize(bytes_of(from));
    to.ticket = static_cast<std::int64_t>(nvme_->write(to.extent, bytes_of(from)));
  } else if (from.extent >= 0) {
    file_bytes_.read += std::ssize(bytes_of(to));
    to.ticket = static_cast<std::int64_t>(nvme_->read(from.extent, bytes_of(to)));
  } else {
    to.ticket = lane(from, to).copy(bytes_of(to), bytes_of(from));
  }
}

CopyLane& TieredStore::lane(const Place& from, const Place& to) {
  return copies_.at({from.replica.tier, to.replica.tier});
}

bool TieredStore::arrived(const Place& to, const Place& from) {
  const bool in_file = to.extent >= 0 || from.extent >= 0;
  return in_file ? nvme_->done(static_cast<NvmeStore::Ticket>(to.ticket))
                 : lane(from, to).done(to.ticket);
}

void TieredStore::wait(const Place& to, const Place& from) {
  const bool in_file = to.extent >= 0 || from.extent >= 0;
  in_file ? nvme_->wait(static_cast<NvmeStore::Ticket>(to.ticket)) : lane(from, to).wait(to.ticket);
}

void TieredStore::note_step() {
  if (nvme_) {
    nvme_->note_step();
  }
}

void TieredStore::finish(const Instruction& move) {
  Place& from = place_of({move.key(), move.source});
  Place& to = place_of({move.key(), move.tier});
  if (!(move.op == Op::evict && move.clean)) {
    const bool late = !arrived(to, from);
    const auto start = Clock::now();
    wait(to, from);
    Waits& waits = waits_[move.cls];
    waits.count += late ? 1 : 0;
    waits.seconds += late ? std::chrono::duration<double>(Clock::now() - start).count() : 0;
  }
  require(residency_.finish(move));
  if (move.op != Op::fetch) {
    count(from, false);
  }
}

/// In memory copied, not swapped: the place of a next generation is shared with packs of other
/// times. In files each has its own.
void TieredStore::make_current(PackClass next, PackClass current, int block, Tier tier) {
  const Replica replica{{next, block}, tier};
  if (!residency_.exists(replica)) {
    return;
  }
  if (tier.kind == TierKind::nvme) {
    const Replica now{{current, block}, tier};
    require(residency_.begin_use(now, Access::write));
    residency_.end_use(now, Access::write);
    std::swap(place_of(now).extent, place_of(replica).extent);
  } else {
    const Lease from = acquire(replica.key, tier, Access::read);
    const Lease to = acquire({current, block}, tier, Access::write);
    std::memcpy(to.bytes().data(), from.bytes().data(), from.bytes().size());
  }
  destroy(replica.key, tier);
}

void TieredStore::commit(int block, Tier tier) {
  make_current(PackClass::weights_next, PackClass::weights, block, tier);
  make_current(PackClass::state_next, PackClass::state, block, tier);
  make_current(PackClass::turn_state_next, PackClass::turn_state, block, tier);
}

void TieredStore::discard(int block, Tier tier) {
  for (const PackClass cls :
       {PackClass::weights_next, PackClass::state_next, PackClass::turn_state_next}) {
    if (residency_.exists({{cls, block}, tier})) {
      destroy({cls, block}, tier);
    }
  }
}

}  // namespace strata::offload
