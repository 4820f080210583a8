#pragma once
#include <functional>
#include <span>
#include <vector>

#include "core/batch.h"
#include "core/ops/linear.h"
#include "core/ops/rope.h"

namespace strata::tests {

// Ops in float64, written from their formulas: plain loops, one per formula. in: operands of the
// node in order; the result holds the results that carry gradients, in order.

using Array = std::vector<double>;
using Arrays = std::vector<Array>;
using Reference = std::function<Arrays(const Arrays& in, const MicroBatch& batch)>;

Reference embedding_reference(std::int64_t C);
/// in: x, positions table.
Reference add_positions_reference(std::int64_t C);
/// in: x, weight (, bias).
Reference layer_norm_reference(std::int64_t C, double eps);
Reference rms_norm_reference(std::int64_t C, double eps);
/// in: x, weight (, bias). K: features in; N: features out.
Reference linear_reference(std::int64_t K, std::int64_t N, WeightLayout layout);
Reference rope_reference(std::int64_t heads, std::int64_t D, double theta, RopeStyle style);
Reference attention_reference(
    std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t K, std::int64_t D);
Reference gelu_tanh_reference();
Reference swiglu_reference();
/// Sum of the operands.
Reference sum_reference();
/// in: x (rows, C), weight (V, C); result: sum of nats over unmasked targets.
Reference cross_entropy_reference(std::int64_t V, std::int64_t C);

}  // namespace strata::tests
