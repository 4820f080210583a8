#pragma once
#include "tests/support/twins/linear.h"
#include "tests/support/twins/top_k.h"

namespace strata::tests::twins {

/// Error feedback: the largest of error + g go on, the rest waits.
struct Sparsified {
  TopK chosen;
  Vec values;  // of the chosen elements
  Vec error;
};

/// `indices`: the kernel's choice, else the twin's own.
inline Sparsified sparsify(const Vec& error,
                           const Vec& g,
                           std::size_t block,
                           double density,
                           std::span<const std::int16_t> indices = {}) {
  Sparsified out{{}, {}, error};
  Vec terms(g.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    terms[i] = std::max(std::abs(error[i]), std::abs(g[i]));
    out.error[i] += g[i];
  }
  out.chosen = top_k(out.error, block, density, terms);
  const std::vector<std::size_t> taken =
      indices.empty() ? out.chosen.elements : elements_of(indices, g.size(), block, density);
  for (const std::size_t i : taken) {
    out.values.push_back(out.error[i]);
    out.error[i] = 0;
  }
  return out;
}

/// F^-1 x, F = mu + 1/m sum of c c^T over the m rows of the window, zero where not yet filled.
/// x is row `newest` of the window: m C (mu m + K)^-1 e_newest.
inline Vec mfac_direction(const Matrix& window, std::size_t newest, double mu) {
  const double m = static_cast<double>(window.rows);
  Matrix gram = gram_of_rows(window);
  for (std::size_t i = 0; i < gram.rows; ++i) {
    gram.at(i, i) += mu * m;
  }
  Vec unit(window.rows);
  unit[newest] = m;
  const Vec y = solve(gram, unit);
  Vec out(window.columns);
  for (std::size_t i = 0; i < window.rows; ++i) {
    for (std::size_t k = 0; k < window.columns; ++k) {
      out[k] += y[i] * window.at(i, k);
    }
  }
  return out;
}

/// The same for any x: (x - C (mu m + K)^-1 C^T x) / mu.
inline Vec mfac_direction_of(const Matrix& window, const Vec& x, double mu) {
  Matrix gram = gram_of_rows(window);
  Vec along(window.rows);
  for (std::size_t i = 0; i < window.rows; ++i) {
    gram.at(i, i) += mu * static_cast<double>(window.rows);
    for (std::size_t k = 0; k < x.size(); ++k) {
      along[i] += window.at(i, k) * x[k];
    }
  }
  const Vec y = solve(gram, along);
  Vec out = x;
  for (std::size_t k = 0; k < x.size(); ++k) {
    for (std::size_t i = 0; i < window.rows; ++i) {
      out[k] -= y[i] * window.at(i, k);
    }
    out[k] /= mu;
  }
  return out;
}

/// g / eps + U [(S + eps)^-1 - 1 / eps] U^T g, where row i of the window is weighted by
/// beta2^age[i], K = C^T C + 1e-6 = V S^2 V^T and U = C V / S. Rows: those filled.
inline Vec ggt_direction(
    const Matrix& window, std::span<const double> age, const Vec& g, double beta2, double eps) {
  Matrix weighted = window;
  for (std::size_t i = 0; i < window.rows; ++i) {
    for (std::size_t k = 0; k < window.columns; ++k) {
      weighted.at(i, k) *= std::pow(beta2, age[i]);
    }
  }
  Matrix gram = gram_of_rows(weighted);
  for (std::size_t i = 0; i < gram.rows; ++i) {
    gram.at(i, i) += 1e-6;
  }
  const Eigen parts = eigen(gram);
  const Matrix turned = product(transposed(parts.vectors), weighted);  // rows: s times those of U
  Vec out = g;
  for (double& value : out) {
    value /= eps;
  }
  for (std::size_t j = 0; j < window.rows; ++j) {
    const double s = std::sqrt(parts.values[j]);
    double along = 0;
    for (std::size_t k = 0; k < g.size(); ++k) {
      along += turned.at(j, k) / s * g[k];
    }
    const double gain = (1 / (s + eps) - 1 / eps) * along;
    for (std::size_t k = 0; k < g.size(); ++k) {
      out[k] += gain * turned.at(j, k) / s;
    }
  }
  return out;
}

/// Change by a direction, then decay of the new weight.
inline Vec moved_along(const Vec& weights, const Vec& direction, double lr, double weight_decay) {
  Vec out(weights.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double moved = weights[i] - lr * direction[i];
    out[i] = moved - lr * weight_decay * moved;
  }
  return out;
}

}  // namespace strata::tests::twins
