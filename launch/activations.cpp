#include "launch/activations.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/runtime.h"

namespace strata::launch {
namespace {

using offload::Recompute;
using offload::RecomputeChoice;
using Device = MemorySettings::Device;

constexpr Tier kDevice{TierKind::device, 0};

std::int64_t budget_bytes(const MemorySettings& memory, int ranks_on_machine) {
  if (memory.device == Device::bytes) {
    return memory.device_bytes;
  }
  // The rest of the machine lives too: code, text, page cache, other programs.
  constexpr std::int64_t kReserveShare = 10, kReserveBytes = 256 << 20;
  const std::int64_t free = runtime(DeviceKind::cpu).memory_info().free_bytes;
  return std::max<std::int64_t>(0, free - free / kReserveShare - kReserveBytes) / ranks_on_machine;
}

std::int64_t reserved_bytes(const Blueprint& blueprint) {
  return blueprint.plan().tiers.at(kDevice).arena_bytes;
}

/// Blueprints of one computation, by choice; the last one made is kept, since it is often the one
/// that is wanted.
class Drafts {
 public:
  explicit Drafts(Computation computation) : computation_(std::move(computation)) {}
  int blocks() const { return static_cast<int>(computation_.model.L); }
  RecomputeChoice all(Recompute recompute) const {
    return RecomputeChoice(static_cast<std::size_t>(blocks()), recompute);
  }
  const Blueprint& of(const RecomputeChoice& choice) {
    if (last_ == nullptr || last_->computation().recompute != choice) {
      computation_.recompute = choice;
      last_ = std::make_unique<Blueprint>(computation_);
    }
    return *last_;
  }
  std::unique_ptr<Blueprint> take(const RecomputeChoice& choice) {
    of(choice);
    return std::move(last_);
  }
  std::int64_t least_bytes() {
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (const Recompute r : {Recompute::none, Recompute::elementwise, Recompute::block}) {
      if (r != Recompute::elementwise || !is_lossy(computation_.activation_codec)) {
        least = std::min(least, reserved_bytes(of(all(r))));
      }
    }
    return least;
  }
  std::optional<RecomputeChoice> choose(std::int64_t budget) {
    const auto plan = [this](const RecomputeChoice& choice) {
      const Blueprint& blueprint = of(choice);
      return offload::RecomputePlan{reserved_bytes(blueprint), blueprint.recompute_flops()};
    };
    // With a lossy codec, results that are redone are not those that would have been kept: what
    // memory there is would change bits.
    return is_lossy(computation_.activation_codec)
               ? offload::choose_recomputed_blocks(blocks(), budget, plan)
               : offload::choose_recompute(blocks(), budget, plan);
  }

 private:
  Computation computation_;
  std::unique_ptr<Blueprint> last_;
};

}  // namespace

double Blueprint::step_flops() const {
  double forward = 0;
  for (int b = 0; b < step_program().blocks; ++b) {
    forward += block_program(b).forward_flops();
  }
  return 3.0 * forward * static_cast<double>(computation().G);
}

double Blueprint::recompute_flops() const {
  const RecomputeChoice& choice = computation().recompute;
  double flops = 0;
  for (std::size_t l = 0; l < choice.size(); ++l) {
    const BlockProgram& program = block_program(static_cast<int>(l) + 1);
    flops += choice[l] == Recompute::block ? program.recompute_flops() : program.redo_flops();
  }
  return flops * static_cast<double>(computation().G);
}

std::vector<BlockProgram::Keep> kept_by_block(const RecomputeChoice& choice) {
  if (choice.empty()) {
    return {};
  }
  std::vector<BlockProgram::Keep> keep(choice.size() + 2, BlockProgram::Keep::all);
  for (std::size_t l = 0; l < choice.size(); ++l) {
    switch (choice[l]) {
      case Recompute::elementwise:
        keep[l + 1] = BlockProgram::Keep::products;
        break;
      case Recompute::mlp:
        keep[l + 1] = BlockProgram::Keep::before_mlp;
        break;
      case Recompute::projections:
        keep[l + 1] = BlockProgram::Keep::attention;
        break;
      case Recompute::none:
      case Recompute::block:
        break;
    }
  }
  return keep;
}

std::vector<int> recomputed_blocks(const RecomputeChoice& choice) {
  std::vector<int> blocks;
  for (std::size_t l = 0; l < choice.size(); ++l) {
    if (choice[l] == Recompute::block) {
      blocks.push_back(static_cast<int>(l) + 1);
    }
  }
  return blocks;
}

Planned plan_activations(Computation computation, const MemorySettings& memory) {
  const int neighbours = computation.place.on_machine;
  Drafts drafts(std::move(computation));
  const bool minimum = memory.device == Device::minimum;
  if (!memory.recompute.automatic) {
    auto blueprint = drafts.take(choice_of(memory.recompute, drafts.blocks()));
    const std::int64_t budget =
        minimum ? reserved_bytes(*blueprint) : budget_bytes(memory, neighbours);
    return {std::move(blueprint), {{kDevice, budget}}, "memory.recompute says so", {}};
  }
  const std::int64_t budget = minimum ? drafts.least_bytes() : budget_bytes(memory, neighbours);
  const auto chosen = drafts.choose(budget);
  const bool nothing = chosen && *chosen == drafts.all(Recompute::none);
  const std::string limit = offload::bytes_text(budget);
  std::string why =
      minimum   ? fmt::format("auto: the least work in the least memory, {}", limit)
      : nothing ? fmt::format("auto: everything that backward reads fits {}", limit)
      : chosen  ? fmt::format("auto: the least work that fits {}", limit)
                : fmt::format("auto: nothing fits {}, and this needs the least memory", limit);
  auto blueprint = drafts.take(chosen.value_or(drafts.all(Recompute::block)));
  return {std::move(blueprint), {{kDevice, budget}}, std::move(why), {}};
}

std::string codec_text(const Blueprint& blueprint, std::string_view before) {
  const ActivationCodec codec = blueprint.computation().activation_codec;
  return is_lossy(codec) ? fmt::format("{}activations {} (lossy)", before, to_string(codec)) : "";
}

nlohmann::json codec_json(const Blueprint& blueprint) {
  const ActivationCodec codec = blueprint.computation().activation_codec;
  return {{"codec", to_string(codec)},
          {"lossy", is_lossy(codec)},
          {"saved_bytes", blueprint.block_program(1).saved_bytes()}};
}

}  // namespace strata::launch
