#pragma once
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "optim/updater.h"
#include "tests/support/fake_machine.h"
#include "tests/support/reference_optim.h"

namespace strata::optim {

/// Two blocks: three tensors that reach over chunk borders, a small one and an empty one.
inline std::vector<BlockSpec> rig_specs() {
  BlockSpec embedding{"embedding", {}, {}}, head{"head", {}, {}};
  embedding.params = {{{10, "wte", Role::embed, {100, 96}}, {}},
                      {{11, "ln", Role::vector, {33}}, {}}};
  head.params = {{{12, "w", Role::matrix, {130, 64}}, {}},
                 {{13, "empty", Role::vector, {0}}, {}},
                 {{14, "b", Role::vector, {5}}, {}}};
  return {embedding, head};
}

/// Uneven cuts for two ranks; rank 0 owns two separate pieces of `w`, rank 1 nothing of `ln`.
inline std::vector<ShardSpec> rig_shards() {
  return {{12, 8192, 8320, 0},
          {10, 0, 4096, 1},
          {10, 4096, 9600, 0},
          {11, 0, 33, 0},
          {12, 0, 4096, 0},
          {12, 4096, 8192, 1},
          {13, 0, 0, 1},
          {14, 0, 5, 1}};
}

/// An updater with its packs, filled from the same noise whatever the rank.
class UpdaterRig {
 public:
  UpdaterRig(std::shared_ptr<Optimizer> method,
             std::vector<ShardSpec> shards,
             int rank,
             WeightFormat format = WeightFormat::f32,
             std::int64_t workspace_bytes = 0)
      : updater(
            std::move(method), rig_specs(), std::move(shards), rank, format, working_of(format)),
        store(sizes(workspace_bytes)),
        format_(format) {
    for (const int b : {0, 1}) {
      for (const PackClass cls : {PackClass::weights, PackClass::state, PackClass::grads}) {
        store.create({cls, b});
      }
      fill_weights(b);
      updater.init_state(b, bytes({PackClass::weights, b}), bytes({PackClass::state, b}));
    }
    store.create({PackClass::workspace});
  }

  /// Gradients of step t, in [-1, 1).
  void fill_gradients(std::uint64_t t) {
    for (const int b : {0, 1}) {
      tests::Noise noise(100 * t + static_cast<std::uint64_t>(b) + 1);
      for_each_element(
          b, updater.block(b).grads, [&](std::byte* at) { put(at, noise.next()); }, 4);
    }
  }
  float& gradient(int block, std::size_t param, std::int64_t element) {
    std::byte* const at = bytes({PackClass::grads, block}).data() +
                          updater.block(block).grads.offset[param] + 4 * element;
    return *reinterpret_cast<float*>(at);
  }

  void norm(int b) {
    Held packs = hold({{PackClass::grads, b}});
    updater.norm({.op = Op::norm, .block = b}, packs, scalars);
  }
  enum class Mode : std::uint8_t { decided, speculative };
  void stats(int b, int phase, Mode mode = Mode::decided) {
    Held packs = hold_update(b, mode, phase == 0);
    updater.stats({.op = Op::stats, .block = b, .phase = phase}, packs, scalars);
  }
  void update(int b, Mode mode = Mode::decided) {
    const int phases = updater.stat_phases();
    Held packs = hold_update(b, mode, phases == 0);
    updater.update({.op = Op::update, .block = b, .phase = phases}, packs, scalars);
  }
  void step(std::int64_t t, double lr = 1e-2, float grad_scale = 1.f) {
    fill_gradients(static_cast<std::uint64_t>(t));
    scalars.inputs.info = {t, 0, lr, grad_scale};
    update(0);
    update(1);
  }

  /// Everything that this rank owns, by tensor and state name, at its place in the whole tensor;
  /// element-wise float fields only. Bytes of other ranks stay as they come.
  using Values = std::map<std::pair<std::string, std::string>, std::vector<float>>;
  void collect(Values& all) {
    for (const int b : {0, 1}) {
      for (const StateEntry& entry : updater.block(b).entries) {
        std::vector<float>& to = all[{entry.tensor, entry.state}];
        to.resize(static_cast<std::size_t>(entry.shape.numel()), -1.f);
        std::memcpy(to.data() + entry.begin,
                    bytes(entry.pack).data() + entry.offset,
                    static_cast<std::size_t>(entry.size_bytes()));
      }
    }
  }
  std::vector<std::byte> copy(PackKey key) {
    const std::span<std::byte> now = bytes(key);
    return {now.begin(), now.end()};
  }
  std::span<std::byte> bytes(PackKey key) { return store.acquire(key).bytes(); }

  OptimizerUpdater updater;
  tests::FakeStore store;
  StepScalars scalars;

 private:
  static DType working_of(WeightFormat format) {
    return format == WeightFormat::f32 ? DType::f32 : DType::bf16;
  }
  PackSizes sizes(std::int64_t workspace_bytes) const {
    PackSizes all{{{PackClass::workspace}, workspace_bytes}};
    for (const int b : {0, 1}) {
      const BlockState& block = updater.block(b);
      all[{PackClass::weights, b}] = all[{PackClass::weights_next, b}] = block.weights.size_bytes;
      all[{PackClass::state, b}] = all[{PackClass::state_next, b}] = block.state_bytes;
      all[{PackClass::grads, b}] = block.grads.size_bytes;
    }
    return all;
  }
  Held hold(std::vector<PackKey> keys) {
    Held packs;
    for (const PackKey key : keys) {
      packs.add(store.acquire(key));
    }
    return packs;
  }
  Held hold_update(int b, Mode mode, bool first) {
    std::vector<PackKey> keys{{PackClass::weights, b},
                              {PackClass::state, b},
                              {PackClass::grads, b},
                              {PackClass::workspace}};
    if (mode == Mode::speculative) {
      for (const PackClass cls : {PackClass::weights_next, PackClass::state_next}) {
        if (first) {
          store.create({cls, b});
        }
        keys.push_back({cls, b});
      }
    }
    return hold(keys);
  }
  static void put(std::byte* at, float value) { std::memcpy(at, &value, sizeof value); }
  template <class Body>
  void for_each_element(int b, const PackLayout& layout, const Body& body, std::int64_t width) {
    const PackClass cls =
        &layout == &updater.block(b).grads ? PackClass::grads : PackClass::weights;
    const BlockSpec spec = rig_specs()[static_cast<std::size_t>(b)];
    for (std::size_t p = 0; p < spec.params.size(); ++p) {
      for (std::int64_t i = 0; i < spec.params[p].info.shape.numel(); ++i) {
        body(bytes({cls, b}).data() + layout.offset[p] + i * width);
      }
    }
  }
  void fill_weights(int b) {
    tests::Noise noise(static_cast<std::uint64_t>(b) + 77);
    const bool narrow = format_ == WeightFormat::bf16_master;
    for_each_element(
        b,
        updater.block(b).weights,
        [&](std::byte* at) {
          const float value = noise.next();
          const bf16 rounded = to_bf16(value);
          narrow ? std::memcpy(at, &rounded, sizeof rounded)
                 : std::memcpy(at, &value, sizeof value);
        },
        narrow ? 2 : 4);
  }
  WeightFormat format_;
};

}  // namespace strata::optim
