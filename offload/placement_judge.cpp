#include "offload/placement_judge.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "core/error.h"
#include "offload/simulator.h"

namespace strata::offload {
namespace {

std::set<PackKey> packs_of(const Program& program) {
  std::set<PackKey> packs(program.residents.begin(), program.residents.end());
  bool decided = false;
  for (const Instruction& i : program.step) {
    const Effects e = effects(program, i, decided);
    const auto needs = e.needs();
    packs.insert(needs.begin(), needs.end());
    decided = decided || i.op == Op::decide;
  }
  return packs;
}

/// Index in kPackKinds; absent for what no placement moves.
std::optional<std::size_t> kind_of(PackClass cls) {
  switch (cls) {
    case PackClass::grads:
    case PackClass::borrowed_grads:
      return 0;
    case PackClass::boundary:
    case PackClass::boundary_grad:
    case PackClass::saved:
      return 1;
    case PackClass::state:
    case PackClass::state_next:
      return 2;
    case PackClass::weights:
    case PackClass::weights_next:
      return 3;
    case PackClass::workspace:
    case PackClass::turn_state:
    case PackClass::turn_state_next:
      break;
  }
  return std::nullopt;
}

std::int64_t pages(std::int64_t size_bytes) {
  constexpr std::int64_t kPageBytes = 4096;
  return (size_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace

PlacementJudge::PlacementJudge(const PlacementTask& task, Effort effort)
    : task_(task), effort_(effort), blocks_(task.programs.front()->blocks) {
  for (const Program* const program : task.programs) {
    for (const PackKey key : packs_of(*program)) {
      used_[key] = task.sizes.at(key);
    }
  }
  bytes_.fill(std::vector<std::int64_t>(static_cast<std::size_t>(blocks_), 0));
  for (const auto& [key, size] : used_) {
    if (const auto kind = kind_of(key.cls); kind && key.block >= 0 && key.block < blocks_) {
      bytes_[*kind][static_cast<std::size_t>(key.block)] += size;
    }
  }
}

std::string PlacementJudge::code(const TiersByBlock& tiers) const {
  std::string all;
  for (const Tiers& t : tiers) {
    for (const Tier tier : {t.weights, t.state, t.grads, t.activations, t.update}) {
      all.push_back(static_cast<char>(static_cast<int>(tier.kind) * 16 + tier.index));
    }
  }
  return all;
}

/// In files nothing shares a place.
Budgets PlacementJudge::bytes_in_files(const Placement& placement) const {
  Budgets needs;
  for (const auto& [key, size] : used_) {
    const auto home = placement.homes.find(key), waits = placement.waits_in.find(key);
    const bool lasts = home != placement.homes.end();
    if (lasts || waits != placement.waits_in.end()) {
      const Tier tier = lasts ? home->second : waits->second;
      if (tier.kind == TierKind::nvme) {
        needs[tier] += pages(size);
      }
    }
  }
  return needs;
}

std::int64_t PlacementJudge::beyond_budget(Tier tier, std::int64_t bytes) const {
  const auto budget = task_.budgets.find(tier);
  return std::max<std::int64_t>(0, bytes - (budget == task_.budgets.end() ? 0 : budget->second));
}

std::int64_t PlacementJudge::missing(const Program& program, const Placement& placement) const {
  std::int64_t all = 0;
  for (const auto& [tier, bytes] : least_bytes(program, placement, used_)) {
    all += tier.kind == TierKind::nvme ? 0 : beyond_budget(tier, bytes);
  }
  return all;
}

std::int64_t PlacementJudge::beyond_writes(std::int64_t bytes) const {
  return std::max<std::int64_t>(0, bytes - task_.most_written);
}

Verdict PlacementJudge::look(const TiersByBlock& tiers) {
  const Placement placement = placement_of(tiers, used_);
  Verdict verdict;
  std::int64_t in_files = 0;
  for (const auto& [tier, bytes] : bytes_in_files(placement)) {
    verdict.missing_bytes += beyond_budget(tier, bytes);
    in_files += bytes;
  }
  const Program& step = *task_.programs.front();
  // Without a program nobody knows what it writes: about what has a place in files, once. Else what
  // lacks room would look nearer than what has it and writes too much.
  if (verdict.missing_bytes > 0) {
    verdict.missing_bytes += missing(step, placement) + beyond_writes(in_files);
    return verdict;
  }
  double seconds = 0;
  try {
    const Program written =
        with_transfers(step, placement, used_, task_.timing, task_.budgets, {effort_});
    const std::int64_t bytes = written_bytes(written, used_);
    least_written_ = std::min(least_written_, bytes);
    verdict.missing_bytes = beyond_writes(bytes);
    seconds = simulate(written, used_, task_.timing).seconds;
  } catch (const Infeasible&) {
    verdict.missing_bytes = missing(step, placement) + beyond_writes(in_files);
    return verdict;
  }
  // The other programs are looked at where it matters.
  for (const Program* const program : task_.programs) {
    if (program != &step && seconds < best_seconds_ && verdict.missing_bytes == 0) {
      verdict.missing_bytes = missing(*program, placement);
    }
  }
  verdict.seconds = verdict.missing_bytes == 0 ? seconds : verdict.seconds;
  return verdict;
}

Verdict PlacementJudge::operator()(const TiersByBlock& tiers) {
  const auto [at, fresh] = known_.try_emplace(code(tiers));
  if (fresh) {
    ++judged_;
    at->second = look(tiers);
    if (at->second.seconds < best_seconds_) {
      best_seconds_ = at->second.seconds;
      best_ = tiers;
    }
    if (at->second.missing_bytes < least_missing_) {
      least_missing_ = at->second.missing_bytes;
      nearest_ = tiers;
    }
  }
  return at->second;
}

void PlacementJudge::refuse(const TiersByBlock& tiers) {
  std::string there;
  for (const auto& [tier, bytes] : task_.budgets) {
    there += fmt::format(
        "{}{} of {}", there.empty() ? "" : ", ", bytes_text(bytes), strata::to_string(tier));
  }
  if (least_written_ != kAnyWrites && least_written_ > task_.most_written) {
    throw Infeasible({{TierKind::nvme, 0},
                      least_written_,
                      task_.most_written,
                      "that is the least of all placements that were tried: there are " + there,
                      Misfit::Of::writes});
  }
  const std::string all = "; the tiers below hold what they can: there are " + there;
  const Placement placement = placement_of(tiers, used_);
  for (const auto& [tier, bytes] : bytes_in_files(placement)) {
    if (const std::int64_t lacks = beyond_budget(tier, bytes); lacks > 0) {
      throw Infeasible({tier, bytes, bytes - lacks, "memory holds no more" + all});
    }
  }
  for (const Program* const program : task_.programs) {
    try {
      with_transfers(*program, placement, used_, task_.timing, task_.budgets, {effort_});
    } catch (const Infeasible& error) {
      Misfit misfit = error.misfit();
      misfit.detail += all;
      throw Infeasible(std::move(misfit));
    }
  }
  throw Error(Errc::internal, "plan: a placement that fits was refused");
}

}  // namespace strata::offload
