#include "offload/rooms.h"

#include <algorithm>

namespace strata::offload {

Rooms::Rooms(int instructions, const Budgets& budgets) : instructions_(instructions) {
  for (const auto& [tier, bytes] : budgets) {
    if (tier.kind != TierKind::nvme) {
      rooms_[tier] = {std::vector<std::int64_t>(static_cast<std::size_t>(instructions), 0), bytes};
    }
  }
}

std::size_t Rooms::in_step(int instruction) const {
  return static_cast<std::size_t>((instruction + instructions_) % instructions_);
}

void Rooms::hold(Tier tier, int begin, int end, std::int64_t size_bytes) {
  if (const auto room = rooms_.find(tier); room != rooms_.end()) {
    for (int k = begin; k < end; ++k) {
      room->second.bytes[in_step(k)] += size_bytes;
    }
  }
}

void Rooms::keep_free(Tier tier, std::int64_t size_bytes) {
  if (const auto room = rooms_.find(tier); room != rooms_.end()) {
    room->second.budget -= size_bytes;
  }
}

bool Rooms::fits(Tier tier, int begin, int end, std::int64_t size_bytes) const {
  const auto room = rooms_.find(tier);
  if (room == rooms_.end()) {
    return true;
  }
  for (int k = begin; k < end; ++k) {
    if (room->second.bytes[in_step(k)] + size_bytes > room->second.budget) {
      return false;
    }
  }
  return true;
}

std::map<Tier, Rooms::Peak> Rooms::peaks() const {
  std::map<Tier, Peak> peaks;
  for (const auto& [tier, room] : rooms_) {
    const auto most = std::max_element(room.bytes.begin(), room.bytes.end());
    peaks[tier] = {static_cast<int>(most - room.bytes.begin()), *most, room.budget};
  }
  return peaks;
}

}  // namespace strata::offload
