#pragma once
#include <cstdint>
#include <span>

#include "core/summation.h"

namespace strata::parallel {

/// out[i] = the sum of contributions[..][i] that `order` describes, for i in [0, numel).
/// `out` may be one of the contributions; `copy`, where it is not null, gets the same values and
/// overlaps nothing. Bits do not depend on threads or instruction set.
void fold(float* out,
          float* copy,
          std::span<const float* const> contributions,
          const SumOrder& order,
          std::int64_t numel);
inline void fold(float* out,
                 std::span<const float* const> contributions,
                 const SumOrder& order,
                 std::int64_t numel) {
  fold(out, nullptr, contributions, order, numel);
}

}  // namespace strata::parallel
