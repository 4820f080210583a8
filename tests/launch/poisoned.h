#pragma once
#include <cstdlib>
#include <limits>
#include <span>
#include <vector>

#include "launch/assemble.h"

namespace strata::launch {

/// A rank of which one contribution to a sum of gradients has one wrong element.
class Poisoned final : public Communicator {
 public:
  explicit Poisoned(Communicator& ranks) : ranks_(ranks) {}
  /// `sum`: counted from the next one on.
  void poison(int sum, std::int64_t element, float value) {
    sums_left_ = sum;
    element_ = element;
    value_ = value;
  }
  bool poisoned() const { return sums_left_ < 0; }

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  void all_reduce(std::span<const Tensor> parts, const SumOrder& order) override {
    spoil(parts);
    ranks_.all_reduce(parts, order);
  }
  void reduce_scatter(std::span<const Tensor> parts,
                      const SumOrder& order,
                      std::span<const Share> shares) override {
    spoil(parts);
    ranks_.reduce_scatter(parts, order, shares);
  }
  void all_gather(std::span<std::byte> bytes, std::span<const Share> shares) override {
    ranks_.all_gather(bytes, shares);
  }
  void broadcast(std::span<std::byte> bytes, int root) override { ranks_.broadcast(bytes, root); }
  void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) override {
    ranks_.gather_all(out, mine);
  }
  void send(std::span<const std::byte> bytes, int to, int tag) override {
    ranks_.send(bytes, to, tag);
  }
  void recv(std::span<std::byte> bytes, int from, int tag) override {
    ranks_.recv(bytes, from, tag);
  }
  void barrier() override { ranks_.barrier(); }
  [[noreturn]] void abort(int exit_code) noexcept override {
    ranks_.abort(exit_code);
    std::abort();  // the compiler does not know that a call through the base does not return
  }

 private:
  void spoil(std::span<const Tensor> parts) {
    if (sums_left_-- == 0) {
      parts[0].data<float>()[element_] = value_;
    }
  }
  Communicator& ranks_;
  int sums_left_ = std::numeric_limits<int>::max();
  std::int64_t element_ = 0;
  float value_ = 0.f;
};

/// The bytes of all that a snapshot sees.
class Copy final : public Snapshotter {
 public:
  void snapshot(const Instruction& instruction, const Held& packs) override {
    for (const PackClass cls : {PackClass::weights, PackClass::state, PackClass::turn_state}) {
      if (packs.contains({cls, instruction.block})) {
        const std::span<std::byte> from = packs[{cls, instruction.block}];
        bytes.insert(bytes.end(), from.begin(), from.end());
      }
    }
  }
  std::vector<std::byte> bytes;
};

inline std::vector<std::byte> copy_of(Engine& engine) {
  Copy copy;
  engine.snapshot(copy);
  return copy.bytes;
}

}  // namespace strata::launch
