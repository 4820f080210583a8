#include "launch/remedies.h"

#include <functional>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};
constexpr std::size_t kMostRemedies = 3;

/// The settings of the job with one of them replaced; what was derived is derived again.
Settings changed(const Job& job, const std::string& key, const std::string& value) {
  Sources sources;
  for (const auto& [name, resolved] : job.settings.values()) {
    if (name != "train.micro_batch" || !is_derived_micro_batch(resolved)) {
      sources.restored[name] = resolved.text;
    }
  }
  sources.arguments.push_back({key, {Raw::Kind::word, value, {}}, "command line"});
  Settings settings(sources);
  complete(settings, job.computation.model);
  return settings;
}

/// Tries changes in the order in which they are offered and keeps what fits.
class Search {
 public:
  Search(const Job& job, const Planned& planned) : job_(job), planned_(planned) {}

  bool enough() const { return found_.size() == kMostRemedies; }
  std::vector<Remedy> take() { return std::move(found_); }

  /// Whether the job fits with the change; it is then a remedy. `note` is asked for what it costs.
  bool offer(const std::string& key,
             const std::string& value,
             const std::function<std::string(const Planned&)>& note) {
    if (enough()) {
      return false;
    }
    const auto planned = plan_with(key, value);
    if (!planned || !planned->fits()) {
      return false;
    }
    found_.push_back({fmt::format("--{}={}", key, value), note(*planned)});
    return true;
  }
  bool offer(const std::string& key, const std::string& value, const std::string& note) {
    return offer(key, value, [&](const Planned&) { return note; });
  }

  void placement() {
    const bool layers_outside = job_.computation.order == Order::layer_major;
    offer("train.order", layers_outside ? "micro-batch-major" : "layer-major", "same bits");
    if (job_.computation.update == UpdateMode::speculative) {
      offer("numerics.update", "after_norm", "same bits");
    }
    if (!job_.settings.config().memory.recompute.automatic) {
      const auto cheapest = plan_with("memory.recompute", "auto");
      if (cheapest && cheapest->fits()) {
        offer("memory.recompute",
              offload::to_string(cheapest->blueprint->computation().recompute),
              [](const Planned& p) {
                return fmt::format(
                    "same bits, {:.1f} % more work",
                    100 * p.blueprint->recompute_flops() / p.blueprint->step_flops());
              });
      }
    }
  }

  void memory() {
    constexpr std::int64_t kMiB = 1 << 20;
    const std::int64_t need = planned_.blueprint->plan().tiers.at(kDevice).arena_bytes;
    const bool all_that_is_free =
        job_.settings.config().memory.device == MemorySettings::Device::automatic;
    offer("memory.device",
          fmt::format("{}MiB", (need + kMiB - 1) / kMiB),
          all_that_is_free ? "same bits, more than is free now" : "same bits");
  }

  void numerics() {
    const Computation& c = job_.computation;
    for (std::int64_t B = c.B - 1; B >= 1; --B) {
      if (c.G * c.B % B == 0 &&
          offer("train.micro_batch", std::to_string(B), "changes bits, same model")) {
        break;
      }
    }
    if (c.dtype == DType::f32) {
      offer("train.dtype", "bf16", "changes bits");
    }
    for (std::int64_t T = c.T / 2; T >= 1; T /= 2) {
      if (offer("train.seq_len", std::to_string(T), "changes bits and what the model sees")) {
        break;
      }
    }
  }

 private:
  /// Absent: the settings do not go together, such as sizes that do not divide.
  std::optional<Planned> plan_with(const std::string& key, const std::string& value) const {
    try {
      const Settings settings = changed(job_, key, value);
      return plan_memory(
          computation_of(settings, job_.computation.model, job_.data, job_.computation.place),
          settings.config().memory,
          settings.config().io);
    } catch (const Error& error) {
      if (error.code() == Errc::config) {
        return std::nullopt;
      }
      throw;
    }
  }

  const Job& job_;
  const Planned& planned_;
  std::vector<Remedy> found_;
};

}  // namespace

Planned plan_job(const Job& job) {
  return plan_memory(job.computation, job.settings.config().memory, job.settings.config().io);
}

std::vector<Remedy> remedies(const Job& job, const Planned& planned) {
  Search search(job, planned);
  search.placement();
  search.memory();
  search.numerics();
  return search.take();
}

void require_fit(const Job& job, const Planned& planned) {
  const auto wrong = misfit(planned.blueprint->plan(), planned.budgets);
  if (!wrong) {
    return;
  }
  const std::vector<Remedy> found = remedies(job, planned);
  std::string text = fmt::format("{} (recompute {}); ",
                                 *wrong,
                                 offload::to_string(planned.blueprint->computation().recompute));
  text += found.size() == kMostRemedies ? "any one of these would fit: "
          : found.empty()               ? "no single change of a setting would fit"
                          : fmt::format("only {} of the changes tried would fit: ", found.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    text += fmt::format("{}{} ({})", i > 0 ? ", " : "", found[i].flag, found[i].note);
  }
  throw Error(Errc::infeasible, text);
}

}  // namespace strata::launch
