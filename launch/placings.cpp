#include "launch/placings.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace strata::launch {
namespace {

using offload::bytes_text;

constexpr Tier kTiers[] = {{TierKind::device, 0},
                           {TierKind::pinned, 0},
                           {TierKind::host, 0},
                           {TierKind::far, 0},
                           {TierKind::nvme, 0}};
constexpr std::size_t kMostAlternatives = 3;

std::string bytes_in(const Placing& p, Tier tier) {
  const auto bytes = p.reserved_bytes.find(tier);
  return bytes == p.reserved_bytes.end() ? "-" : bytes_text(bytes->second);
}

std::string missing_text(const offload::Misfit& misfit) {
  if (misfit.of == offload::Misfit::Of::writes) {
    return fmt::format(
        "writes {} too many to {}", bytes_text(misfit.missing_bytes()), to_string(misfit.tier));
  }
  return fmt::format("lacks {} of {}", bytes_text(misfit.missing_bytes()), to_string(misfit.tier));
}

nlohmann::json placing_json(const Placing& p) {
  nlohmann::json one{
      {"placement",
       p.by_block.empty() ? offload::to_string(p.tiers) : offload::to_string(p.by_block)},
      {"recompute", p.recompute},
      {"fits", !p.misfit},
      {"chosen", p.chosen}};
  if (p.misfit) {
    one["tier"] = to_string(p.misfit->tier);
    one["missing_bytes"] = p.misfit->missing_bytes();
    one["missing"] = p.misfit->of == offload::Misfit::Of::writes ? "writes" : "room";
    return one;
  }
  for (const auto& [tier, bytes] : p.reserved_bytes) {
    one["reserved_bytes"][to_string(tier)] = bytes;
  }
  one["seconds"] = p.seconds;
  one["bound_seconds"] = p.bound_seconds;
  one["bound_by"] = p.bound_by;
  one["nvme_written_bytes"] = p.nvme_written_bytes;
  return one;
}

}  // namespace

Placing placing_of(const Blueprint& blueprint) {
  const Computation& c = blueprint.computation();
  const Forecast f = forecast(blueprint);
  Placing p{.tiers = c.offloading ? c.offloading->tiers : offload::Tiers(),
            .recompute = offload::to_string(c.recompute),
            .misfit = {},
            .reserved_bytes = {},
            .seconds = f.step.seconds,
            .bound_seconds = f.step.bound_seconds(),
            .bound_by = f.step.bound_by(),
            .nvme_written_bytes = f.nvme_written_bytes};
  if (c.offloading) {
    p.by_block = c.offloading->by_block;
  }
  for (const auto& [tier, plan] : blueprint.plan().tiers) {
    p.reserved_bytes[tier] = plan.arena_bytes;
  }
  return p;
}

std::string placing_name(const offload::Tiers& tiers) {
  std::string name, all = offload::to_string(tiers);
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t comma = std::min(all.find(',', at), all.size());
    const std::string one = all.substr(at, comma - at);
    if (!one.ends_with("=device")) {
      name += (name.empty() ? "" : ",") + one;
    }
    at = comma + 1;
  }
  return name.empty() ? "device" : name;
}

void sort_placings(std::vector<Placing>& placings) {
  std::ranges::stable_sort(placings, {}, [](const Placing& p) {
    return std::tuple(p.misfit.has_value(), p.misfit ? p.misfit->missing_bytes() : 0, p.seconds);
  });
}

namespace {

/// Those that always have a column, and the others that some placing uses.
std::vector<Tier> tiers_of(const std::vector<Placing>& placings) {
  std::vector<Tier> tiers;
  for (const Tier tier : kTiers) {
    const bool used = std::ranges::any_of(
        placings, [&](const Placing& p) { return p.reserved_bytes.contains(tier); });
    if (used || (tier.kind != TierKind::pinned && tier.kind != TierKind::far)) {
      tiers.push_back(tier);
    }
  }
  return tiers;
}

}  // namespace

void print_comparison(const std::vector<Placing>& placings) {
  std::size_t width = 8;
  for (const Placing& p : placings) {
    width = std::max(width, placing_name(p.tiers).size());
  }
  const std::vector<Tier> tiers = tiers_of(placings);
  const auto row = [&](const std::string& name,
                       const std::array<std::string, 5>& cells,
                       const std::function<std::string(Tier)>& bytes) {
    const auto& [recompute, step, bound, written, verdict] = cells;
    std::string line =
        fmt::format("  {:<{}}  {:<14}{:>10}  {:<24}", name, width, recompute, step, bound);
    for (const Tier tier : tiers) {
      line += fmt::format("{:>11}", bytes(tier));
    }
    line += fmt::format("{:>13}  {}", written, verdict);
    std::printf("%s\n", line.c_str());
  };
  row("placing", {"recompute", "step", "bound by", "nvme written", ""}, [](Tier tier) {
    return to_string(tier);
  });
  for (const Placing& p : placings) {
    if (p.misfit) {
      row(placing_name(p.tiers), {p.recompute, "-", "-", "-", missing_text(*p.misfit)}, [](Tier) {
        return "-";
      });
      continue;
    }
    row(placing_name(p.tiers),
        {p.recompute,
         seconds_text(p.seconds),
         p.bound_by + " " + seconds_text(p.bound_seconds),
         p.nvme_written_bytes > 0 ? bytes_text(p.nvme_written_bytes) : "-",
         p.chosen ? "in use" : "fits"},
        [&](Tier tier) { return bytes_in(p, tier); });
  }
}

void print_alternatives(const std::vector<Placing>& placings) {
  const auto chosen = std::ranges::find(placings, true, &Placing::chosen);
  if (chosen == placings.end() || chosen->misfit) {
    return;
  }
  std::size_t told = 0;
  for (const Placing& p : placings) {
    if (p.chosen || p.misfit || told == kMostAlternatives) {
      continue;
    }
    std::printf("%s %s, recompute %s: %s a step (%+.1f %%), bound by %s, %s of device\n",
                told++ == 0 ? "next best:" : "          ",
                placing_name(p.tiers).c_str(),
                p.recompute.c_str(),
                seconds_text(p.seconds).c_str(),
                100 * (p.seconds / chosen->seconds - 1),
                p.bound_by.c_str(),
                bytes_in(p, kTiers[0]).c_str());
  }
  if (told == 0) {
    std::printf("next best: nothing else that was tried fits; --compare shows what is missing\n");
  }
}

namespace {

/// The same computation with other tiers.
Placing moved(const Blueprint& blueprint,
              const offload::Budgets& budgets,
              const offload::Tiers& tiers) {
  Computation c = blueprint.computation();
  Offloading other = *c.offloading;
  other.tiers = tiers;
  other.by_block.clear();
  other.budgets = budgets;
  c.offloading = std::make_shared<const Offloading>(std::move(other));
  try {
    return placing_of(Blueprint(c));
  } catch (const offload::Infeasible& error) {
    return {.tiers = tiers,
            .recompute = offload::to_string(c.recompute),
            .misfit = error.misfit(),
            .reserved_bytes = {},
            .bound_by = {}};
  }
}

}  // namespace

std::vector<Reason> reasons(const Blueprint& blueprint, const offload::Budgets& budgets) {
  constexpr std::pair<const char*, Tier offload::Tiers::*> kKinds[] = {
      {"weights", &offload::Tiers::weights},
      {"state", &offload::Tiers::state},
      {"grads", &offload::Tiers::grads},
      {"activations", &offload::Tiers::activations},
      {"update", &offload::Tiers::update}};
  std::vector<Reason> all;
  const auto& offloading = blueprint.computation().offloading;
  if (offloading == nullptr) {
    return all;
  }
  for (const auto& [name, member] : kKinds) {
    const Tier in = offloading->tiers.*member;
    for (const Tier nearer : kTiers) {
      if (nearer < in && budgets.contains(nearer)) {
        offload::Tiers tiers = offloading->tiers;
        tiers.*member = nearer;
        all.push_back({name, in, nearer, moved(blueprint, budgets, tiers)});
      }
    }
  }
  return all;
}

void print_reasons(const std::vector<Reason>& reasons, const Blueprint& blueprint) {
  const double now = forecast(blueprint).step.seconds;
  for (const Reason& r : reasons) {
    const Placing& p = r.placing;
    const bool faster = !p.misfit && p.seconds < now;
    std::printf("  %s in %s, not %s: there %s%s\n",
                r.kind.c_str(),
                to_string(r.in).c_str(),
                to_string(r.instead).c_str(),
                p.misfit ? ("the plan " + missing_text(*p.misfit)).c_str()
                         : fmt::format("a step takes {} ({:+.1f} %), with {} of device",
                                       seconds_text(p.seconds),
                                       100 * (p.seconds / now - 1),
                                       bytes_in(p, kTiers[0]))
                               .c_str(),
                faster ? ("; --memory.placement=" + offload::to_string(p.tiers)).c_str() : "");
  }
}

nlohmann::json reasons_json(const std::vector<Reason>& reasons) {
  nlohmann::json list = nlohmann::json::array();
  for (const Reason& r : reasons) {
    list.push_back({{"kind", r.kind},
                    {"in", to_string(r.in)},
                    {"instead", to_string(r.instead)},
                    {"placing", placing_json(r.placing)}});
  }
  return list;
}

nlohmann::json placings_json(const std::vector<Placing>& placings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Placing& p : placings) {
    list.push_back(placing_json(p));
  }
  return list;
}

}  // namespace strata::launch
