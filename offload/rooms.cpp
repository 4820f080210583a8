#include "offload/rooms.h"

#include <algorithm>

namespace strata::offload {

Rooms::Rooms(int instructions, const Budgets& budgets) {
  for (const auto& [tier, bytes] : budgets) {
    if (tier.kind != TierKind::nvme) {
      rooms_[tier] = {std::vector<std::int64_t>(static_cast<std::size_t>(instructions), 0), bytes};
    }
  }
}

void Rooms::hold(Tier tier, int begin, int end, std::int64_t size_bytes) {
  if (const auto room = rooms_.find(tier); room != rooms_.end()) {
    for (int k = begin; k < end; ++k) {
      room->second.bytes[static_cast<std::size_t>(k)] += size_bytes;
    }
  }
}

bool Rooms::fits(Tier tier, int begin, int end, std::int64_t size_bytes) const {
  const auto room = rooms_.find(tier);
  if (room == rooms_.end()) {
    return true;
  }
  const Room& r = room->second;
  return std::all_of(r.bytes.begin() + begin,
                     r.bytes.begin() + std::max(begin, end),
                     [&](std::int64_t held) { return held + size_bytes <= r.budget; });
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
