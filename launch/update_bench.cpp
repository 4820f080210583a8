#include "launch/update_bench.h"

#include <emmintrin.h>
#include <fmt/format.h>

#include "core/error.h"
#include "core/parallel_for.h"
#include "core/runtime.h"
#include "optim/registry.h"
#include "optim/weight_update.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};
constexpr std::int64_t kRows = 4096, kColumns = 1024;
constexpr PackKey kWeights{PackClass::weights, 0}, kGrads{PackClass::grads, 0},
    kState{PackClass::state, 0}, kTurnState{PackClass::turn_state, 0},
    kWorkspace{PackClass::workspace};

/// Matrices of (kRows, kColumns), then what is left: a matrix of fewer rows and a vector.
BlockSpec matrices(std::int64_t params) {
  BlockSpec spec{"bench", {}, {}};
  const auto add = [&](Role role, Shape shape) {
    const auto id = static_cast<TensorId>(spec.params.size());
    spec.params.push_back({{id, fmt::format("p.{}", id), role, shape}, {}});
  };
  for (std::int64_t i = 0; i < params / (kRows * kColumns); ++i) {
    add(Role::matrix, {kRows, kColumns});
  }
  if (const std::int64_t rows = params % (kRows * kColumns) / kColumns; rows > 0) {
    add(Role::matrix, {rows, kColumns});
  }
  if (const std::int64_t rest = params % kColumns; rest > 0) {
    add(Role::vector, {rest});
  }
  return spec;
}

/// Bytes that an update cannot do without: the gradient is read; weights, their copy in bf16 aside,
/// and every field of state are read and written.
std::int64_t least_bytes(const optim::Optimizer& method, const BlockSpec& spec, DType dtype) {
  std::int64_t bytes = 0;
  for (const ParamSpec& param : spec.params) {
    const std::int64_t each = 4 + 2 * 4 + (dtype == DType::bf16 ? size_bytes(dtype) : 0);
    bytes += param.info.shape.numel() * each +
             2 * optim::state_bytes(method, param.info, WeightFormat::f32, DType::f32);
  }
  return bytes;
}

}  // namespace

UpdateBench::UpdateBench(const std::string& method,
                         std::span<const optim::Setting> settings,
                         std::int64_t params,
                         DType dtype)
    : UpdateBench(optim::make_optimizer(method, settings), matrices(params), dtype) {}

UpdateBench::UpdateBench(std::shared_ptr<optim::Optimizer> method,
                         const BlockSpec& spec,
                         DType dtype)
    : updater_(method,
               {spec},
               {},
               0,
               dtype == DType::bf16 ? WeightFormat::bf16_master : WeightFormat::f32,
               dtype),
      bytes_(least_bytes(*method, spec, dtype)) {
  const offload::Plan placed = plan();
  const std::int64_t needed = placed.tiers.at(kDevice).arena_bytes + 2 * Copy::kBytes;
  const std::int64_t free = runtime(DeviceKind::cpu).memory_info().free_bytes;
  if (needed > free) {
    throw Error(Errc::infeasible,
                fmt::format("bench optim: needs {} of memory, {} are free; lower --params",
                            offload::bytes_text(needed),
                            offload::bytes_text(free)));
  }
  store_ =
      std::make_unique<offload::TieredStore>(placed, offload::Budgets{{kDevice, needed}}, ledger_);
  for (const auto& [key, size] : placed.sizes) {
    store_->create(key);
    packs_.add(store_->acquire(key));
  }
  const auto fill = [&](PackKey key, DType type) {
    const std::span<std::byte> pack = packs_[key];
    fill_random(
        Tensor(pack.data(), type, {static_cast<std::int64_t>(pack.size()) / size_bytes(type)}));
  };
  fill(kWeights, dtype);
  fill(kGrads, DType::f32);
  updater_.init_state(0, packs_[kWeights], packs_[kState]);
  updater_.init_turn(0, packs_[kWeights], packs_[kTurnState]);
  scalars_.inputs.info = {.step = 0, .seed = 1, .lr = 1e-4, .grad_scale = 0.5f};
}

offload::Plan UpdateBench::plan() const {
  const optim::BlockState& block = updater_.block(0);
  offload::Plan plan;
  plan.sizes = {{kWeights, block.weights.size_bytes},
                {kGrads, block.grads.size_bytes},
                {kState, block.state_bytes},
                {kTurnState, block.turn_state_bytes},
                {kWorkspace, updater_.workspace_bytes()}};
  std::int64_t end = 0;
  for (const auto& [key, size] : plan.sizes) {
    plan.offset[{key}] = end;
    end += (size + 4095) / 4096 * 4096;
  }
  plan.tiers[kDevice].arena_bytes = end;
  return plan;
}

void UpdateBench::update() {
  ++scalars_.inputs.info.step;
  const int phases = updater_.stat_phases();
  for (int phase = 0; phase < phases; ++phase) {
    updater_.stats({.op = Op::stats, .block = 0, .phase = phase}, packs_, scalars_);
  }
  updater_.update({.op = Op::update, .block = 0, .phase = phases}, packs_, scalars_);
}

void stream_copy(std::span<std::byte> to, std::span<const std::byte> from) {
  STRATA_ASSERT(to.size() == from.size() && to.size() % sizeof(__m128i) == 0);
  const auto count = static_cast<std::int64_t>(to.size() / sizeof(__m128i));
  auto* const into = reinterpret_cast<__m128i*>(to.data());
  const auto* const of = reinterpret_cast<const __m128i*>(from.data());
  parallel_for(count, 1 << 10, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      _mm_stream_si128(into + i, _mm_load_si128(of + i));
    }
    _mm_sfence();
  });
}

void Copy::run() const {
  const auto bytes = [](const RandomMemory& memory) {
    const Tensor all = memory.tensor({kNumel});
    return std::span(all.bytes(), static_cast<std::size_t>(kBytes));
  };
  stream_copy(bytes(to_), bytes(from_));
}

}  // namespace strata::launch
