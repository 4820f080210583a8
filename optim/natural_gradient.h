#pragma once
#include <cstdint>

namespace strata::optim {

/// x = (gram + damping)^-1 e_at by Cholesky's factorisation; gram (n, n), its lower triangle given,
/// is overwritten. False, and x is nothing, when a pivot is not positive.
bool solve_damped(double* gram, double* x, std::int64_t n, std::int64_t at, double damping);

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
