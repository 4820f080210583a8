#pragma once
#include <cstdint>

namespace strata::optim {

/// to (numel) = (damping + sum of g g^T)^-1 g over the `kept` vectors g of history (kept, numel), g
/// being the one at `now`: C (damping + C^T C)^-1 e_now, which loses no digits where g is large. to
/// = g where the squares are no numbers. gram: kept^2 doubles of room, shares: kept. Bits do not
/// depend on the threads.
void natural_gradient(float* to,
                      const float* history,
                      std::int64_t numel,
                      std::int64_t kept,
                      std::int64_t now,
                      double damping,
                      double* gram,
                      double* shares);

}  // namespace strata::optim
