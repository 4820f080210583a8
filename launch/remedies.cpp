#include "launch/remedies.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/io/file.h"
#include "core/runtime.h"
#include "launch/forecast.h"
#include "launch/placings.h"

namespace strata::launch {
namespace {

using Device = MemorySettings::Device;

constexpr Tier kDevice{TierKind::device, 0}, kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};
constexpr std::size_t kMostRemedies = 3;

/// Settings and their new values.
using Change = std::vector<std::pair<std::string, std::string>>;

/// The settings of the job with some of them replaced; what was derived is derived again.
Settings changed(const Job& job, const Change& change) {
  Sources sources;
  for (const auto& [name, resolved] : job.settings.values()) {
    if (name != "train.micro_batch" || !is_derived_micro_batch(resolved)) {
      sources.restored[name] = resolved.text;
    }
  }
  for (const auto& [key, value] : change) {
    sources.arguments.push_back({key, {Raw::Kind::word, value, {}}, "command line"});
  }
  Settings settings(sources);
  complete(settings, job.computation.model);
  return settings;
}

/// Tries changes in the order in which they are offered and keeps what fits.
class Search {
 public:
  explicit Search(const Job& job)
      : job_(job),
        memory_(job.settings.config().memory),
        says_how_many_(job.settings.config().speculated) {}

  bool enough() const { return found_.size() == kMostRemedies; }
  std::vector<Remedy> take() { return std::move(found_); }

  /// Whether the job fits with the change; it is then a remedy. `note` is asked for what it costs.
  bool offer(const Change& change, const std::function<std::string(const Planned&)>& note) {
    if (enough()) {
      return false;
    }
    const auto planned = plan_with(change);
    if (!planned) {
      return false;
    }
    std::string flags;
    for (const auto& [key, value] : joined(change)) {
      flags += fmt::format("{}--{}={}", flags.empty() ? "" : " ", key, value);
    }
    found_.push_back({flags, note(*planned)});
    return true;
  }
  bool offer(const Change& change, const std::string& note) {
    return offer(change, [&](const Planned&) { return note; });
  }

  void placement() {
    const bool layers_outside = job_.computation.order == Order::layer_major;
    offer({{"train.order", layers_outside ? "micro-batch-major" : "layer-major"}}, "same bits");
    if (job_.computation.update == UpdateMode::speculative) {
      offer({{"numerics.update", "after_norm"}}, "same bits");
    }
    if (says_how_many_) {
      offer({{"numerics.speculated", "auto"}}, "same bits");
    }
    if (!memory_.placement.empty()) {
      free_placement_fits_ = offer({{"memory.placement", "auto"}}, [](const Planned& p) {
        return "same bits, " + placing_name(placing_of(*p.blueprint).tiers);
      });
    }
    if (!memory_.recompute.automatic) {
      const auto cheapest = plan_with({{"memory.recompute", "auto"}});
      if (cheapest) {
        offer({{"memory.recompute",
                offload::to_string(cheapest->blueprint->computation().recompute)}},
              [](const Planned& p) {
                return fmt::format(
                    "same bits, {:.1f} % more work",
                    100 * p.blueprint->recompute_flops() / p.blueprint->step_flops());
              });
      }
    }
  }

  /// What the files are written more, where that alone is too much.
  void writes(const offload::Misfit& misfit) {
    if (misfit.of == offload::Misfit::Of::writes) {
      const std::int64_t bytes = misfit.needed_bytes * job_.computation.place.on_machine;
      offer({{"memory.nvme_writes", size_text(bytes)}}, "same bits, more wear");
    }
  }

  /// Larger budgets, of what is missing first: at most two, so that what needs no memory is told
  /// too; both memories where neither alone is enough.
  void memory(Tier lacking) {
    const std::size_t before = found_.size();
    std::vector<Tier> tiers{kDevice, kHost, kNvme};
    std::erase(tiers, lacking);
    tiers.insert(tiers.begin(), lacking);
    for (const Tier tier : tiers) {
      if (found_.size() == before + 2) {
        return;
      }
      tier == kNvme ? larger_files() : larger_memory(std::span(&tier, 1));
    }
    if (found_.size() == before) {
      larger_memory(std::array{kDevice, kHost});
    }
  }

  /// Room that the placement which was asked for cannot use.
  void memory_placed_freely(Tier lacking) {
    if (!memory_.placement.empty() && !free_placement_fits_) {
      together_ = {{"memory.placement", "auto"}};
      memory(lacking);
      together_.clear();
    }
  }

  void numerics() {
    const Computation& c = job_.computation;
    for (std::int64_t B = c.B - 1; B >= 1; --B) {
      if (c.G * c.B % B == 0 &&
          offer({{"train.micro_batch", std::to_string(B)}}, "changes bits, same model")) {
        break;
      }
    }
    if (c.update != UpdateMode::immediate) {
      Change change{{"numerics.update", "immediate"}};
      if (says_how_many_) {
        change.emplace_back("numerics.speculated", "auto");
      }
      const std::size_t as_they_are = change.size();
      const OptimSettings& optim = job_.settings.config().optim;
      if (optim.clip > 0 && optim.clip_scope == ClipScope::global) {
        change.push_back({"optim.clip_scope", "pack"});
      }
      offer(change,
            change.size() > as_they_are ? "changes bits where a gradient is clipped"
                                        : "same bits while all numbers are finite");
    }
    if (c.method == "adamw") {
      offer({{"optim.method", "adamw8bit"}}, "changes bits");
    }
    if (c.dtype == DType::f32) {
      offer({{"train.dtype", "bf16"}}, "changes bits");
    }
    for (std::int64_t T = c.T / 2; T >= 1; T /= 2) {
      if (offer({{"train.seq_len", std::to_string(T)}}, "changes bits and what the model sees")) {
        break;
      }
    }
  }

 private:
  Change joined(const Change& change) const {
    Change all = together_;
    all.insert(all.end(), change.begin(), change.end());
    return all;
  }
  /// Absent: it does not fit, or the settings do not go together, such as sizes that do not divide.
  std::optional<Planned> plan_with(const Change& change) const {
    try {
      const Settings settings = changed(job_, joined(change));
      Planned planned = plan_memory(
          computation_of(settings, job_.computation.model, job_.data, job_.computation.place),
          settings.config().memory,
          settings.config().io);
      return planned.fits() ? std::optional(std::move(planned)) : std::nullopt;
    } catch (const Error& error) {
      if (error.code() == Errc::config || error.code() == Errc::infeasible) {
        return std::nullopt;
      }
      throw;
    }
  }

  /// As much of these tiers as the plan with the least of them takes.
  void larger_memory(std::span<const Tier> tiers) {
    const auto key = [](Tier tier) { return "memory." + to_string(tier); };
    Change wish, change;
    for (const Tier tier : tiers) {
      wish.emplace_back(key(tier), "minimum");
    }
    const auto least = plan_with(wish);
    bool free_now = true;
    for (const Tier tier : tiers) {
      const std::int64_t bytes = least ? reserved(*least, tier) : 0;
      if (bytes == 0) {
        return;
      }
      change.emplace_back(key(tier), size_text(bytes));
      free_now = free_now && bytes <= runtime(DeviceKind::cpu).memory_info().free_bytes;
    }
    offer(change, free_now ? "same bits" : "same bits, more than is free now");
  }
  /// Nothing where a file system does not have the bytes.
  void larger_files() {
    constexpr std::int64_t kPlenty = std::int64_t{1} << 50;
    std::vector<std::string> paths = memory_.nvme;
    if (paths.empty()) {
      paths.emplace_back(".:0");
    }
    const std::string last = paths.back().substr(0, paths.back().rfind(':'));
    const auto with = [&](const std::string& size) {
      paths.back() = last + ":" + size;
      return Change{{"memory.nvme", fmt::format("{}", fmt::join(paths, ","))}};
    };
    const auto free_one = plan_with(with(std::to_string(kPlenty)));
    if (!free_one) {
      return;
    }
    const std::int64_t ranks = job_.computation.place.on_machine;
    const std::int64_t others =
        free_one->budgets.at(kNvme) - kPlenty / ranks;  // what the other paths hold
    const std::int64_t bytes = reserved(*free_one, kNvme) - others * ranks;
    if (bytes > 0 && bytes <= io::free_bytes(last)) {
      offer(with(size_text(bytes)), [](const Planned& p) {
        const Forecast f = forecast(*p.blueprint);
        return fmt::format("same bits, {} written per step",
                           offload::bytes_text(f.nvme_written_bytes));
      });
    }
  }
  /// By all ranks of this machine.
  std::int64_t reserved(const Planned& planned, Tier tier) const {
    const auto& tiers = planned.blueprint->plan().tiers;
    const auto found = tiers.find(tier);
    return found == tiers.end() ? 0 : found->second.arena_bytes * job_.computation.place.on_machine;
  }
  static std::string size_text(std::int64_t bytes) {
    constexpr std::int64_t kMiB = 1 << 20;
    return fmt::format("{}MiB", (bytes + kMiB - 1) / kMiB);
  }

  const Job& job_;
  const MemorySettings& memory_;
  const bool says_how_many_;  // blocks speculate
  Change together_;           // part of all that is offered
  bool free_placement_fits_ = false;
  std::vector<Remedy> found_;
};

std::string list_of(const std::vector<Remedy>& found) {
  std::string text = found.size() == kMostRemedies ? "any one of these would fit: "
                     : found.empty()
                         ? "no single change of a setting would fit"
                         : fmt::format("only {} of the changes tried would fit: ", found.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    text += fmt::format("{}{} ({})", i > 0 ? ", " : "", found[i].flag, found[i].note);
  }
  return text;
}

}  // namespace

Planned plan_job(const Job& job) {
  const RunConfig& config = job.settings.config();
  try {
    return plan_memory(job.computation, config.memory, config.io);
  } catch (const offload::Infeasible& error) {
    throw Error(Errc::infeasible,
                fmt::format("{}; {}", error.what(), list_of(remedies(job, error.misfit()))));
  }
}

std::vector<Remedy> remedies(const Job& job, const offload::Misfit& misfit) {
  Search search(job);
  search.placement();
  search.writes(misfit);
  search.memory(misfit.tier);
  search.memory_placed_freely(misfit.tier);
  search.numerics();
  return search.take();
}

void require_fit(const Job& job, const Planned& planned) {
  if (const auto wrong = misfit(planned.blueprint->plan(), planned.budgets)) {
    throw Error(Errc::infeasible,
                fmt::format("{} (recompute {}); {}",
                            to_string(*wrong),
                            offload::to_string(planned.blueprint->computation().recompute),
                            list_of(remedies(job, *wrong))));
  }
}

}  // namespace strata::launch
