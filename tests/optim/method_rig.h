#pragma once
#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "optim/updater.h"
#include "tests/support/fake_machine.h"
#include "tests/support/reference_optim.h"

namespace strata::tests {

/// Every role; more than a chunk and less; kept (in, out) and (out, in); odd, one element, none.
inline std::vector<BlockSpec> method_specs() {
  BlockSpec embedding{"embedding", {}, {}}, block{"block", {}, {}};
  embedding.params = {{{10, "wte", Role::embed, {50, 96}}, {}},
                      {{11, "ln", Role::vector, {33}}, {}}};
  block.params = {{{12, "w", Role::matrix, {130, 64}}, {}},
                  {{13, "empty", Role::vector, {0}}, {}},
                  {{14, "turned", Role::matrix, {64, 70}, 1}, {}},
                  {{15, "odd", Role::matrix, {37, 61}}, {}},
                  {{16, "one", Role::matrix, {1, 1}}, {}},
                  {{17, "long", Role::vector, {4101}}, {}},
                  {{18, "head", Role::head, {9, 64}}, {}},
                  {{19, "b", Role::vector, {5}}, {}}};
  return {embedding, block};
}

/// Settings that make small tensors show what large ones do.
inline std::vector<optim::Setting> small_settings(const std::string& method) {
  std::vector<optim::Setting> out;
  for (const optim::SettingInfo& info : optim::optimizer_settings(method)) {
    if (info.name == "rank" && std::stoi(info.default_value) > 4) {
      out.push_back({"rank", "4"});
    } else if (info.name == "refresh_every") {
      out.push_back({"refresh_every", "2"});
    }
  }
  return out;
}

/// Whether matrices go through products, whose bytes depend on the instruction set.
inline bool multiplies(const std::string& method) {
  for (const optim::SettingInfo& info : optim::optimizer_settings(method)) {
    if ((info.name == "orthogonal" && info.default_value == "true") ||
        (info.name == "subspace" &&
         (info.default_value == "svd" || info.default_value == "random" ||
          info.default_value == "gaussian"))) {
      return true;
    }
  }
  return false;
}

inline std::vector<WeightFormat> weight_formats() {
  return {WeightFormat::f32,
          WeightFormat::bf16_master,
          WeightFormat::bf16_stochastic,
          WeightFormat::bf16_kahan,
          WeightFormat::int8};
}

/// One rank's updater with its packs: precise weights and gradients come by tensor and element,
/// whatever the rank.
class MethodRig {
 public:
  /// All that is owned, by tensor and field, at its place in the whole; and the working weights.
  using Bytes = std::map<std::pair<std::string, std::string>, std::vector<std::byte>>;
  using Fill = std::function<float(const ParamInfo&, std::int64_t element)>;

  MethodRig(const std::string& method,
            const std::vector<optim::Setting>& settings,
            WeightFormat format,
            std::vector<ShardSpec> shards = {},
            int rank = 0,
            std::vector<BlockSpec> blocks = method_specs())
      : specs(std::move(blocks)),
        updater(optim::make_optimizer(method, settings), specs, shards, rank, format, kept(format)),
        store_(sizes()),
        shards_(std::move(shards)),
        rank_(rank),
        working_(kept(format)) {
    store_.create({PackClass::workspace});
    Noise noise(77);
    for (int b = 0; b < blocks_count(); ++b) {
      for (const PackClass cls : kKept) {
        store_.create({cls, b});
      }
      store_.create({PackClass::grads, b});
      std::ranges::fill(bytes({PackClass::weights, b}), std::byte{0});
      updater.init_state(b, bytes({PackClass::weights, b}), bytes({PackClass::state, b}));
      updater.init_turn(b, bytes({PackClass::weights, b}), bytes({PackClass::turn_state, b}));
      for (const ParamSpec& param : spec(b).params) {
        std::vector<float> start(static_cast<std::size_t>(param.info.shape.numel()));
        std::ranges::generate(start, [&] { return noise.next(); });
        updater.start_weights(b,
                              param.info.id,
                              0,
                              start,
                              bytes({PackClass::weights, b}),
                              bytes({PackClass::state, b}),
                              bytes({PackClass::turn_state, b}));
      }
    }
  }

  /// Where parameters take turns: what an engine does before the step.
  void enter(std::int64_t step) {
    if (const std::int64_t next = updater.period_of(step); next != period_) {
      period_ = next;
      updater.enter(step);
      for (int b = 0; b < blocks_count(); ++b) {
        updater.init_turn(b, bytes({PackClass::weights, b}), bytes({PackClass::turn_state, b}));
      }
    }
  }

  /// Whether the parameter has a gradient in the first period.
  bool trains(TensorId id) const {
    const auto turns = updater.turns(1);
    for (std::size_t b = 0; b < specs.size(); ++b) {
      for (std::size_t p = 0; p < specs[b].params.size(); ++p) {
        if (specs[b].params[p].info.id == id) {
          return turns[b][p] != Turn::frozen;
        }
      }
    }
    return false;
  }
  int blocks_count() const { return static_cast<int>(specs.size()); }
  const BlockSpec& spec(int b) const { return specs[static_cast<std::size_t>(b)]; }
  void set_gradients(const Fill& fill) {
    for (int b = 0; b < blocks_count(); ++b) {
      for (std::size_t p = 0; p < spec(b).params.size(); ++p) {
        const ParamInfo& param = spec(b).params[p].info;
        std::byte* const to =
            bytes({PackClass::grads, b}).data() + updater.block(b).grads.offset[p];
        for (std::int64_t i = 0; i < param.shape.numel(); ++i) {
          const float value = fill(param, i);
          std::memcpy(to + 4 * i, &value, sizeof value);
        }
      }
    }
  }
  void stats(int b, int phase) {
    Held packs = hold(b);
    updater.stats({.op = Op::stats, .block = b, .phase = phase}, packs, scalars);
  }
  void update(int b) {
    Held packs = hold(b);
    updater.update({.op = Op::update, .block = b, .phase = updater.stat_phases()}, packs, scalars);
  }
  bool non_finite() {
    StepScalars found;
    for (int b = 0; b < blocks_count(); ++b) {
      Held packs = hold(b);
      updater.norm({.op = Op::norm, .block = b}, packs, found);
    }
    return found.non_finite;
  }

  Bytes collect() {
    Bytes all;
    collect(all);
    return all;
  }
  /// What this rank owns, into what others do.
  void collect(Bytes& all) {
    for (int b = 0; b < blocks_count(); ++b) {
      for (const StateEntry& entry : updater.block(b).entries) {
        put(all[{entry.tensor, entry.state}],
            entry.first_value * size_bytes(entry.dtype),
            bytes(entry.pack).data() + entry.offset,
            entry.size_bytes());
      }
      for (std::size_t p = 0; p < spec(b).params.size(); ++p) {
        const ParamInfo& param = spec(b).params[p].info;
        for (const auto& [begin, end] : owned(param)) {
          const std::int64_t width = size_bytes(working_);
          put(all[{param.name, "working"}],
              begin * width,
              bytes({PackClass::weights, b}).data() + updater.block(b).weights.offset[p] +
                  begin * width,
              (end - begin) * width);
        }
      }
    }
  }
  /// Owned ranges of another rig, or of this one at another time, into this one.
  void adopt(MethodRig& other) {
    period_ = other.period_;
    updater.enter(1 + period_ * updater.period_steps());
    for (int b = 0; b < blocks_count(); ++b) {
      for (const PackClass cls : kKept) {
        std::ranges::copy(other.bytes({cls, b}), bytes({cls, b}).begin());
      }
    }
  }
  std::span<std::byte> bytes(PackKey key) { return store_.acquire(key).bytes(); }

  std::vector<BlockSpec> specs;
  optim::OptimizerUpdater updater;
  StepScalars scalars;

 private:
  static constexpr PackClass kKept[] = {
      PackClass::weights, PackClass::state, PackClass::turn_state};
  static DType kept(WeightFormat format) {
    return format == WeightFormat::f32 ? DType::f32 : DType::bf16;
  }
  static void put(std::vector<std::byte>& to,
                  std::int64_t at,
                  const std::byte* from,
                  std::int64_t count) {
    to.resize(std::max(to.size(), static_cast<std::size_t>(at + count)));
    std::copy(from, from + count, to.data() + at);
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> owned(const ParamInfo& param) const {
    if (shards_.empty()) {
      return {{0, param.shape.numel()}};
    }
    std::vector<std::pair<std::int64_t, std::int64_t>> out;
    for (const ShardSpec& shard : shards_) {
      if (shard.tensor == param.id && shard.owner == rank_) {
        out.emplace_back(shard.begin, shard.end);
      }
    }
    return out;
  }
  PackSizes sizes() {
    PackSizes all{{{PackClass::workspace}, updater.workspace_bytes()}};
    for (int b = 0; b < blocks_count(); ++b) {
      const optim::BlockState& block = updater.block(b);
      all[{PackClass::weights, b}] = block.weights.size_bytes;
      all[{PackClass::state, b}] = block.state_bytes;
      all[{PackClass::grads, b}] = block.grads.size_bytes;
    }
    constexpr int kPeriods = 8;
    for (int period = kPeriods - 1; period >= 0; --period) {  // ends with the first
      updater.enter(1 + period * updater.period_steps());
      for (int b = 0; b < blocks_count(); ++b) {
        std::int64_t& most = all[{PackClass::turn_state, b}];
        most = std::max(most, updater.block(b).turn_state_bytes);
      }
    }
    return all;
  }
  Held hold(int b) {
    Held packs;
    for (const PackKey key : {PackKey{PackClass::weights, b},
                              PackKey{PackClass::state, b},
                              PackKey{PackClass::turn_state, b},
                              PackKey{PackClass::grads, b},
                              PackKey{PackClass::workspace}}) {
      packs.add(store_.acquire(key));
    }
    return packs;
  }
  FakeStore store_;
  std::vector<ShardSpec> shards_;
  int rank_;
  DType working_;
  std::int64_t period_ = 0;
};

/// One step of all ranks, statistics added over them as collectives do.
inline void step_together(std::span<MethodRig* const> ranks,
                          std::int64_t t,
                          const MethodRig::Fill& gradient,
                          double lr = 1e-2) {
  for (MethodRig* rank : ranks) {
    rank->enter(t);
    rank->set_gradients(gradient);
    rank->scalars.inputs.info = {t, 9, lr, t % 2 == 0 ? 0.5f : 1.f};
  }
  for (int b = 0; b < ranks[0]->blocks_count(); ++b) {
    for (int phase = 0; phase < ranks[0]->updater.stat_phases(); ++phase) {
      std::vector<double> sum;
      for (MethodRig* rank : ranks) {
        rank->stats(b, phase);
        sum.resize(rank->scalars.stats.size());
        std::ranges::transform(sum, rank->scalars.stats, sum.begin(), std::plus<>());
      }
      for (MethodRig* rank : ranks) {
        rank->scalars.stats = sum;
      }
    }
    for (MethodRig* rank : ranks) {
      rank->update(b);
    }
  }
}
inline void step_alone(MethodRig& rig,
                       std::int64_t t,
                       const MethodRig::Fill& gradient,
                       double lr = 1e-2) {
  MethodRig* const one[] = {&rig};
  step_together(one, t, gradient, lr);
}

/// The gradient of every step and element, in [-1, 1) of a size that differs over rows.
inline MethodRig::Fill gradient_of(std::int64_t t) {
  return [t](const ParamInfo& param, std::int64_t i) {
    Noise noise(static_cast<std::uint64_t>(param.id * 1'000'003 + t * 7919 + i * 31));
    return noise.next() * (i % 50 == 49 ? 0.f : 1.f / static_cast<float>(1 + i % 13));
  };
}

}  // namespace strata::tests
