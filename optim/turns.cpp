#include "optim/turns.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include <fmt/format.h>

#include "core/error.h"
#include "core/philox.h"
#include "optim/tile.h"

namespace strata::optim {
namespace {

/// The numbers below `from`, in an order that the key decides.
std::vector<std::int64_t> permutation(std::int64_t from, const RandomKey& key) {
  std::vector<std::pair<std::uint32_t, std::int64_t>> ranked;
  for (std::int64_t i = 0; i < from; ++i) {
    ranked.emplace_back(key.words(static_cast<std::uint64_t>(i))[0], i);
  }
  std::ranges::sort(ranked);
  std::vector<std::int64_t> order;
  std::ranges::transform(ranked, std::back_inserter(order), [](const auto& r) { return r.second; });
  return order;
}

}  // namespace

void TurnParts::validate() const {
  require(refresh_every >= 1,
          "refresh_every",
          "a value of at least 1",
          static_cast<double>(refresh_every));
}

TurnTaking::TurnTaking(SubspaceKind kind,
                       std::string_view method,
                       std::span<const Setting> settings)
    : kind_(kind),
      parts_(read_part<TurnParts>(method, settings)),
      blocks_(read_part<BlockTurnParts>(method, settings)),
      density_(read_part<DensityParts>(method, settings)),
      rest_(read_part<RestParts>(method, settings)) {
  require(parts_.remainder == Remainder::discard || parts_.remainder == Remainder::sign ||
              parts_.remainder == Remainder::sgd,
          "remainder",
          "discard, sign or sgd beside subspace=tensors and blocks: what waits has no image to "
          "scale by",
          to_text(parts_.remainder));
}

float TurnTaking::waiting(float g) const {
  switch (parts_.remainder) {
    case Remainder::sign:
      return static_cast<float>(rest_.rest_lr) * sign(g);
    case Remainder::sgd:
      return static_cast<float>(rest_.rest_lr) * g;
    default:
      return 0.f;
  }
}

/// Rounds of as many periods as it takes to serve everyone; the last of a round may serve fewer.
std::vector<std::int64_t> TurnTaking::chosen(std::int64_t from,
                                             std::int64_t count,
                                             std::int64_t period,
                                             std::uint64_t seed) const {
  const std::int64_t periods = (from + count - 1) / count;
  const bool drawn = parts_.order == TurnOrder::drawn;
  const std::int64_t round = drawn ? period : period / periods;
  const std::int64_t first = drawn ? 0 : period % periods * count;
  std::vector<std::int64_t> order(static_cast<std::size_t>(from));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  if (parts_.order == TurnOrder::descending) {
    std::ranges::reverse(order);
  } else if (parts_.order != TurnOrder::ascending) {
    order = permutation(from, {seed, RandomUse::turns, static_cast<std::uint64_t>(round), 0});
  }
  const auto begin = order.begin() + first;
  return {begin, begin + std::min(count, from - first)};
}

std::vector<std::vector<Turn>> TurnTaking::turns(std::span<const BlockSpec> blocks,
                                                 std::int64_t period,
                                                 std::uint64_t seed) const {
  std::vector<std::vector<Turn>> all = no_turns(blocks);
  std::vector<std::vector<Turn*>> taking;  // together
  const Turn others = freezes() ? Turn::frozen : Turn::waiting;
  const std::size_t last = blocks.size() - 1;
  for (std::size_t b = 0; b <= last; ++b) {
    const bool end = last > 1 && (b == 0 || b == last);
    const bool in_turn = !end || blocks_.ends == Ends::in_turn;
    std::vector<Turn*> whole;
    for (std::size_t p = 0; p < all[b].size(); ++p) {
      Turn& turn = all[b][p];
      if (kind_ == SubspaceKind::tensors) {
        if (blocks[b].params[p].info.role == Role::matrix) {
          turn = others;
          taking.push_back({&turn});
        }
      } else if (in_turn) {
        turn = others;
        whole.push_back(&turn);
      } else if (blocks_.ends == Ends::frozen) {
        turn = others;
      }
    }
    if (!whole.empty()) {
      taking.push_back(std::move(whole));
    }
  }
  const auto from = static_cast<std::int64_t>(taking.size());
  std::int64_t count = blocks_.blocks;
  if (kind_ == SubspaceKind::tensors) {
    count = std::max<std::int64_t>(1, std::llround(density_.density * static_cast<double>(from)));
  }
  if (count > from) {
    throw Error(Errc::config,
                fmt::format("optim.blocks: needs 1 to {}, as many as can take turns, got {}; the "
                            "nearest is {}",
                            from,
                            count,
                            from));
  }
  for (const std::int64_t i : chosen(from, count, period, seed)) {
    for (Turn* const turn : taking[static_cast<std::size_t>(i)]) {
      *turn = Turn::taken;
    }
  }
  return all;
}

std::vector<SettingInfo> turn_settings(SubspaceKind kind, std::span<const Setting> settings) {
  std::vector<SettingInfo> known = list_settings<TurnParts>();
  const auto add = [&](std::vector<SettingInfo> more) {
    std::ranges::move(more, std::back_inserter(known));
  };
  add(kind == SubspaceKind::tensors ? list_settings<DensityParts>()
                                    : list_settings<BlockTurnParts>());
  if (read_part<TurnParts>("optim", settings).remainder != Remainder::discard) {
    add(list_settings<RestParts>());
  }
  return known;
}

}  // namespace strata::optim
