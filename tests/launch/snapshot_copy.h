#pragma once
#include <span>
#include <vector>

#include "launch/assemble.h"

namespace strata::launch {

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
