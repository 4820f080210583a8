#pragma once
#include <cstdint>

#include "core/cpu/scratch.h"

namespace strata::cpu {

/// Stands in for a Scratch to add up what a list of buffers takes: the function that lays the
/// buffers out is the one that tells their size.
class ScratchSize {
 public:
  std::span<std::byte> bytes(std::int64_t size_bytes) {
    total_ += aligned_bytes(size_bytes);
    return {};
  }
  template <class T>
  T* array(std::int64_t count) {
    total_ += aligned_bytes(count * static_cast<std::int64_t>(sizeof(T)));
    return nullptr;
  }
  std::int64_t total_bytes() const { return total_; }

 private:
  std::int64_t total_ = 0;
};

}  // namespace strata::cpu
