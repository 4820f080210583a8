#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "core/tensor.h"

namespace strata::cpu {

/// Size of a range of scratch, so that the next one starts on a cache line.
constexpr std::int64_t aligned_bytes(std::int64_t size_bytes) {
  return (size_bytes + 63) / 64 * 64;
}

/// Hands out a node's scratch from front to back.
class Scratch {
 public:
  explicit Scratch(std::span<std::byte> bytes) : left_(bytes) {}

  std::span<std::byte> bytes(std::int64_t size_bytes) {
    const auto size = static_cast<std::size_t>(aligned_bytes(size_bytes));
    STRATA_ASSERT(size <= left_.size());
    const auto taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
  }
  template <class T>
  T* array(std::int64_t count) {
    return reinterpret_cast<T*>(bytes(count * static_cast<std::int64_t>(sizeof(T))).data());
  }
  Tensor tensor(DType dtype, const Shape& shape) {
    return {bytes(shape.numel() * size_bytes(dtype)).data(), dtype, shape};
  }

 private:
  std::span<std::byte> left_;
};

}  // namespace strata::cpu
