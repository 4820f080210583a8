// How many blocks of a hybrid step speculate.
#include "launch/speculation.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launch/blueprint_parts.h"
#include "launch/ranks.h"
#include "launch/remedies.h"

namespace strata::launch {
namespace {

int trained_blocks(const Program& step) {
  return step.blocks - static_cast<int>(step.frozen.size());
}

/// Where none is put off, the program says nothing of it.
int speculated_blocks(const Program& step) {
  return step.lazy ? static_cast<int>(step.speculated.size()) : trained_blocks(step);
}

bool is_hybrid(const Blueprint& blueprint) {
  return blueprint.computation().update == UpdateMode::hybrid;
}

/// Plans that differ in the number alone: their budgets are settled, their places chosen.
class Counts {
 public:
  explicit Counts(const Planned& planned)
      : computation_(planned.blueprint->computation()), budgets_(planned.budgets) {
    if (computation_.offloading) {
      Offloading settled = *computation_.offloading;
      settled.budgets = budgets_;
      computation_.offloading = std::make_shared<const Offloading>(std::move(settled));
    }
  }
  /// Of a plan that fits; else null, and what it lacks is kept.
  std::unique_ptr<Blueprint> draw(int speculated) {
    computation_.speculated = speculated;
    try {
      auto blueprint = std::make_unique<Blueprint>(computation_);
      auto lacks = offload::misfit(blueprint->plan(), budgets_);
      if (!lacks) {
        return blueprint;
      }
      lacking_ = std::move(*lacks);
    } catch (const offload::Infeasible& error) {
      lacking_ = error.misfit();
    }
    return nullptr;
  }
  /// Of the last plan that did not fit.
  const offload::Misfit& lacking() const { return lacking_; }

 private:
  Computation computation_;
  const offload::Budgets budgets_;
  offload::Misfit lacking_;
};

}  // namespace

Planned with_speculation(Planned planned) {
  if (!is_hybrid(*planned.blueprint)) {
    return planned;
  }
  if (planned.blueprint->computation().speculated) {
    planned.speculated_why = "numerics.speculated says so";
    return planned;
  }
  if (!planned.fits()) {
    planned.speculated_why = "auto: even where all updates wait, the step does not fit";
    return planned;
  }
  planned.blueprint->impl().computation.speculated = 0;  // as it was drawn
  Counts counts(planned);
  const int all = trained_blocks(planned.blueprint->step_program());
  int most = 0, refused = all + 1;
  for (int count = all; most + 1 < refused; count = (most + refused) / 2) {
    if (auto blueprint = counts.draw(count)) {
      planned.blueprint = std::move(blueprint);
      most = count;
    } else {
      refused = count;
    }
  }
  const offload::Misfit& lacking = counts.lacking();
  planned.speculated_why =
      most == all ? "auto: there is room for a next generation of every block"
                  : fmt::format(
                        "auto: next generations take what is left; with one block more, {} "
                        "of {} are missing",
                        offload::bytes_text(lacking.missing_bytes()),
                        to_string(lacking.tier));
  return planned;
}

Planned plan_together(const Job& job, Communicator& ranks) {
  const Computation& c = job.computation;
  const auto alone = [&] {
    Planned planned = plan_job(job);
    require_fit(job, planned);
    return planned;
  };
  if (c.update != UpdateMode::hybrid || c.speculated || ranks.size() == 1) {
    return alone();
  }
  std::optional<Planned> planned;
  together(ranks, [&] { planned = alone(); });
  const int ours = planned->blueprint->computation().speculated.value();
  std::vector<int> theirs(static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(theirs)), std::as_bytes(std::span(&ours, 1)));
  const int most = *std::ranges::min_element(theirs);
  together(ranks, [&] {
    if (most == ours) {
      return;
    }
    Counts counts(*planned);
    planned->blueprint = counts.draw(most);
    if (planned->blueprint == nullptr) {
      throw offload::Infeasible(counts.lacking());
    }
    planned->speculated_why = "auto: as many as there is room for on every rank";
  });
  return std::move(*planned);
}

std::optional<std::string> speculation_line(const Blueprint& blueprint) {
  if (!is_hybrid(blueprint)) {
    return std::nullopt;
  }
  const Program& step = blueprint.step_program();
  return fmt::format("updates: hybrid, {} of {} blocks speculate, the last ones",
                     speculated_blocks(step),
                     trained_blocks(step));
}

nlohmann::json speculation_json(const Planned& planned) {
  if (!is_hybrid(*planned.blueprint)) {
    return {};
  }
  const Program& step = planned.blueprint->step_program();
  return {{"speculated_blocks", speculated_blocks(step)},
          {"trained_blocks", trained_blocks(step)},
          {"why", planned.speculated_why}};
}

}  // namespace strata::launch
