#pragma once
#include "tests/support/twins/galore.h"
#include "tests/support/twins/linear.h"

namespace strata::tests::twins {

/// (mu + sum of g g^T over the history)^-1 g, g its last row: C (mu + C^T C)^-1 e_last.
inline Vec natural_gradient(const Matrix& history, double mu) {
  Matrix gram = gram_of_rows(history);
  for (std::size_t i = 0; i < gram.rows; ++i) {
    gram.at(i, i) += mu;
  }
  Vec last(gram.rows);
  last.back() = 1;
  const Vec z = solve(gram, last);
  Vec out(history.columns);
  for (std::size_t i = 0; i < history.rows; ++i) {
    for (std::size_t k = 0; k < history.columns; ++k) {
      out[k] += z[i] * history.at(i, k);
    }
  }
  return out;
}

struct NaturalGaLoreSettings {
  GaLoreSettings galore;
  double mu = 1e-3;
  std::size_t window = 20;
};

struct NaturalGaLoreStep {
  Matrix weights;
  AdamState state;
  Matrix history;  // oldest first, one flattened (L x r) gradient a row
  Vec natural;
  AdamDirection adam;
};

/// GaLore on the natural gradient of the projected ones since the last refresh. `history`: those of
/// the steps before, oldest first, cleared by the caller at a refresh.
inline NaturalGaLoreStep natural_galore(const Matrix& weights,
                                        const AdamState& state,
                                        const Matrix& history,
                                        const Matrix& g,
                                        const Basis& basis,
                                        const NaturalGaLoreSettings& s,
                                        double lr,
                                        std::int64_t t,
                                        const AdamHints& hints = {}) {
  const Matrix r = project(g, basis);
  NaturalGaLoreStep out{weights, {}, history, {}, {}};
  out.history.columns = r.values.size();
  out.history.values.insert(out.history.values.end(), r.values.begin(), r.values.end());
  if (++out.history.rows > s.window) {
    const auto first = out.history.values.begin();
    out.history.values.erase(first, first + static_cast<std::ptrdiff_t>(r.values.size()));
    --out.history.rows;
  }
  out.natural = natural_gradient(out.history, s.mu);
  out.adam = adam_direction(state, out.natural, s.galore.adam, t, hints);
  out.state = {out.adam.m_stored.state, out.adam.v_stored.state};
  const Matrix back = project_back({r.rows, r.columns, out.adam.direction}, basis);
  for (std::size_t i = 0; i < weights.values.size(); ++i) {
    const double moved = weights.values[i] - lr * s.galore.scale * back.values[i];
    out.weights.values[i] = moved - lr * s.galore.weight_decay * moved;
  }
  return out;
}

}  // namespace strata::tests::twins
