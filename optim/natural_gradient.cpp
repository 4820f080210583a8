#include "optim/natural_gradient.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/compress/wide.h"
#include "core/math.h"
#include "optim/tile.h"

namespace strata::optim {

bool solve_damped(double* gram, double* x, std::int64_t n, std::int64_t at, double damping) {
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = j; i < n; ++i) {
      double value = gram[i * n + j] + (i == j ? damping : 0.0);
      for (std::int64_t k = 0; k < j; ++k) {
        value -= gram[i * n + k] * gram[j * n + k];
      }
      if (i == j && !(value > 0.0 && std::isfinite(value))) {
        return false;
      }
      gram[i * n + j] = i == j ? std::sqrt(value) : value / gram[j * n + j];
    }
  }
  for (std::int64_t i = 0; i < n; ++i) {
    double value = i == at ? 1.0 : 0.0;
    for (std::int64_t k = 0; k < i; ++k) {
      value -= gram[i * n + k] * x[k];
    }
    x[i] = value / gram[i * n + i];
  }
  for (std::int64_t i = n - 1; i >= 0; --i) {
    for (std::int64_t k = i + 1; k < n; ++k) {
      x[i] -= gram[k * n + i] * x[k];
    }
    x[i] /= gram[i * n + i];
  }
  return true;
}

void natural_gradient(float* to,
                      const float* history,
                      std::int64_t numel,
                      std::int64_t kept,
                      std::int64_t now,
                      double damping,
                      double* gram,
                      double* shares) {
  parallel_for(kept * kept, 1, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd([&] {
      for (std::int64_t at = begin; at < end; ++at) {
        const std::int64_t i = at / kept, j = at % kept;
        if (j <= i) {
          gram[i * kept + j] = cpu::wide_dot(numel, history + i * numel, history + j * numel);
        }
      }
    });
  });
  if (!solve_damped(gram, shares, kept, now, damping)) {
    std::fill(shares, shares + kept, 0.0);
    shares[now] = 1.0;
  }
  for_each_tile(numel, [&](std::int64_t begin, std::int64_t n) {
    alignas(64) std::array<double, kTile> sums = {};
    double* const sum = sums.data();
    cpu::simd([&] {
      for (std::int64_t row = 0; row < kept; ++row) {
        const float* const from = history + row * numel + begin;
        const double by = shares[row];
        for (std::int64_t i = 0; i < n; ++i) {
          sum[i] = fma_(by, static_cast<double>(from[i]), sum[i]);
        }
      }
      for (std::int64_t i = 0; i < n; ++i) {
        to[begin + i] = static_cast<float>(sum[i]);
      }
    });
  });
}

}  // namespace strata::optim
