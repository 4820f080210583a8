#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/matmul.h"

namespace strata::tests {

/// One matrix product of a training step of a preset, without the dtype.
struct StepProduct {
  std::string name;
  MatmulShape shape;
};

/// Every product of the step over all presets, each shape once: forward, dx and dW of every
/// linear layer, and the head in chunks of rows and columns. `tokens`:
/// rows of a micro-batch. Widths above `width` are cut to it where they are not summed over.
std::vector<StepProduct> step_products(std::int64_t tokens, std::int64_t width);

/// (numel) values in [-1, 1), the same for the same seed.
Tensor random_values(DType dtype, std::int64_t numel, std::uint64_t seed);

struct ProductTypes {
  DType in, out;
};
/// What steps use: f32, bf16 with f32 results (weight gradients), bf16.
inline constexpr ProductTypes kProductTypes[] = {
    {DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}};

}  // namespace strata::tests
