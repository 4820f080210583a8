#include "offload/placement.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace strata::offload {
namespace {

using Member = Tier Tiers::*;
constexpr std::array<std::pair<std::string_view, Member>, 5> kKinds{{
    {"weights", &Tiers::weights},
    {"state", &Tiers::state},
    {"grads", &Tiers::grads},
    {"activations", &Tiers::activations},
    {"update", &Tiers::update},
}};

std::optional<Tier> tier_from(std::string_view name) {
  for (const TierKind kind :
       {TierKind::device, TierKind::pinned, TierKind::host, TierKind::far, TierKind::nvme}) {
    if (const Tier tier{kind, 0}; name == to_string(tier)) {
      return tier;
    }
  }
  return std::nullopt;
}

}  // namespace

bool runs_updates(Tier tier) {
  return tier.kind == TierKind::device || tier.kind == TierKind::pinned ||
         tier.kind == TierKind::host;
}

std::string to_string(const Tiers& tiers) {
  std::string text;
  for (const auto& [name, member] : kKinds) {
    text += (text.empty() ? "" : ",") + std::string(name) + "=" + to_string(tiers.*member);
  }
  return text;
}

std::string to_string(std::span<const Tiers> by_block) {
  std::string text;
  for (const auto& [name, member] : kKinds) {
    std::string runs;
    bool whole = true;
    for (std::size_t first = 0, last = 0; first < by_block.size(); first = last + 1) {
      for (last = first;
           last + 1 < by_block.size() && by_block[last + 1].*member == by_block[first].*member;) {
        ++last;
      }
      whole = first == 0 && last + 1 == by_block.size();
      runs += (runs.empty() ? "" : ",") + std::to_string(first) +
              (last > first ? "-" + std::to_string(last) : "") + ":" +
              to_string(by_block[first].*member);
    }
    text += (text.empty() ? "" : "; ") + std::string(name) + "=" +
            (whole ? to_string(by_block[0].*member) : runs);
  }
  return text;
}

std::optional<Tiers> tiers_from(std::string_view text) {
  Tiers tiers;
  while (!text.empty()) {
    const std::string_view one = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), one.size() + 1));
    const std::size_t equals = one.find('=');
    Member member = nullptr;
    for (const auto& [name, of_kind] : kKinds) {
      member = name == one.substr(0, equals) ? of_kind : member;
    }
    const auto tier = equals == one.npos ? std::nullopt : tier_from(one.substr(equals + 1));
    const bool computes = member == &Tiers::update;
    if (member == nullptr || !tier || (computes && !runs_updates(*tier))) {
      return std::nullopt;
    }
    tiers.*member = *tier;
  }
  return tiers;
}

Placement placement_of(const Tiers& tiers, const PackSizes& sizes) {
  int blocks = 0;
  for (const auto& [key, size] : sizes) {
    blocks = std::max(blocks, key.block + 1);
  }
  return placement_of(std::vector(static_cast<std::size_t>(blocks), tiers), sizes);
}

Placement placement_of(std::span<const Tiers> by_block, const PackSizes& sizes) {
  Placement placement;
  const auto put = [](auto& into, const auto& key, Tier tier) {
    if (tier != Tier()) {
      into[key] = tier;
    }
  };
  for (const auto& [key, size] : sizes) {
    if (size == 0 || key.block < 0) {
      continue;
    }
    // What the last block leaves for inference is of a block more.
    const Tiers& tiers =
        by_block[std::min(static_cast<std::size_t>(key.block), by_block.size() - 1)];
    switch (key.cls) {
      case PackClass::weights:
        put(placement.homes, key, tiers.weights);
        put(placement.update_in, key.block, tiers.update);
        break;
      case PackClass::state:
        put(placement.homes, key, tiers.state);
        break;
      case PackClass::grads:
      case PackClass::borrowed_grads:
        put(placement.homes, key, tiers.grads);  // where they last from step to step
        put(placement.waits_in, key, tiers.grads);
        break;
      case PackClass::boundary:
      case PackClass::boundary_grad:
      case PackClass::saved:
        put(placement.waits_in, key, tiers.activations);
        break;
      case PackClass::weights_next:  // where they wait to be committed
        put(placement.waits_in, key, tiers.weights);
        break;
      case PackClass::state_next:
        put(placement.waits_in, key, tiers.state);
        break;
      case PackClass::workspace:
      case PackClass::turn_state:
      case PackClass::turn_state_next:
        break;
    }
  }
  return placement;
}

}  // namespace strata::offload
