#include "offload/placement.h"

#include <algorithm>
#include <array>
#include <charconv>
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

constexpr int kEighths = 8;
constexpr std::string_view kOf = "/8";

std::string value_text(const Tiers& tiers, Member member) {
  const bool part =
      member == &Tiers::activations && tiers.activations != Tier() && tiers.eighths != kEighths;
  return to_string(tiers.*member) +
         (part ? "*" + std::to_string(tiers.eighths) + std::string(kOf) : "");
}

/// "*5/8", or nothing for all.
std::optional<int> eighths_from(std::string_view text) {
  if (text.empty()) {
    return kEighths;
  }
  const bool shaped = text.size() == 2 + kOf.size() && text[0] == '*' && text.ends_with(kOf);
  const int count = shaped ? text[1] - '0' : 0;
  return count >= 1 && count < kEighths ? std::optional(count) : std::nullopt;
}

/// Whether a micro-batch is among so many eighths of them.
bool is_among(int micro_batch, int eighths) {
  return (micro_batch + 1) * eighths / kEighths > micro_batch * eighths / kEighths;
}

/// "3" or "3-5", of so many blocks.
std::optional<std::pair<int, int>> range_from(std::string_view text, int blocks) {
  const auto number = [](std::string_view digits) -> std::optional<int> {
    int value = 0;
    const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value);
    return error == std::errc() && end == digits.end() ? std::optional(value) : std::nullopt;
  };
  const std::size_t dash = text.find('-');
  const auto first = number(text.substr(0, dash));
  const auto last = dash == text.npos ? first : number(text.substr(dash + 1));
  if (!first || !last || *first > *last || *last >= blocks) {
    return std::nullopt;
  }
  return std::pair(*first, *last);
}

}  // namespace

bool runs_updates(Tier tier) {
  return tier.kind == TierKind::device || tier.kind == TierKind::pinned ||
         tier.kind == TierKind::host;
}

std::string to_string(const Tiers& tiers) {
  std::string text;
  for (const auto& [name, member] : kKinds) {
    text += (text.empty() ? "" : ",") + std::string(name) + "=" + value_text(tiers, member);
  }
  return text;
}

std::string to_string(std::span<const Tiers> by_block) {
  std::string text;
  for (const auto& [name, member] : kKinds) {
    std::string runs, value;
    bool whole = true;
    for (std::size_t first = 0, last = 0; first < by_block.size(); first = last + 1) {
      value = value_text(by_block[first], member);
      for (last = first;
           last + 1 < by_block.size() && value_text(by_block[last + 1], member) == value;) {
        ++last;
      }
      whole = first == 0 && last + 1 == by_block.size();
      runs += (runs.empty() ? "" : ",") + std::to_string(first) +
              (last > first ? "-" + std::to_string(last) : "") + ":" + value;
    }
    text += (text.empty() ? "" : "; ") + std::string(name) + "=" + (whole ? value : runs);
  }
  return text;
}

std::optional<Tiers> tiers_from(std::string_view text) {
  const auto one = tiers_by_block_from(text, 1);
  return one ? std::optional((*one)[0]) : std::nullopt;
}

std::optional<std::vector<Tiers>> tiers_by_block_from(std::string_view text, int blocks) {
  std::vector<Tiers> tiers(static_cast<std::size_t>(blocks));
  Member member = nullptr;
  while (!text.empty()) {
    std::string_view one = text.substr(0, text.find_first_of(",;"));
    text.remove_prefix(std::min(text.size(), one.size() + 1));
    one.remove_prefix(std::min(one.size(), one.find_first_not_of(' ')));
    if (const std::size_t equals = one.find('='); equals != one.npos) {
      member = nullptr;
      for (const auto& [name, of_kind] : kKinds) {
        member = name == one.substr(0, equals) ? of_kind : member;
      }
      one.remove_prefix(equals + 1);
    }
    std::optional<std::pair<int, int>> range{{0, blocks - 1}};
    if (const std::size_t colon = one.find(':'); colon != one.npos) {
      range = range_from(one.substr(0, colon), blocks);
      one.remove_prefix(colon + 1);
    }
    const std::string_view part = one.substr(std::min(one.size(), one.find('*')));
    const auto tier = tier_from(one.substr(0, one.size() - part.size()));
    const auto eighths = eighths_from(part);
    if (member == nullptr || !range || !tier || !eighths ||
        (member == &Tiers::update && !runs_updates(*tier)) ||
        (member != &Tiers::activations && *eighths != kEighths)) {
      return std::nullopt;
    }
    for (int b = range->first; b <= range->second; ++b) {
      Tiers& of_block = tiers[static_cast<std::size_t>(b)];
      of_block.*member = *tier;
      of_block.eighths = member == &Tiers::activations ? *eighths : of_block.eighths;
    }
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
        put(placement.waits_in,
            key,
            is_among(key.micro_batch, tiers.eighths) ? tiers.activations : Tier());
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
