#pragma once
#include "tests/support/twins/formats.h"

namespace strata::tests::twins {

struct AdamMiniSettings {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
};

struct AdamMiniStep {
  Vec weights, m, v;
};

/// One v for each group of elements: `group_of[i]` is the group of element i, v has one entry each.
/// PyTorch's eps, decay first.
inline AdamMiniStep adam_mini(const Vec& weights,
                              const Vec& m,
                              const Vec& v,
                              const Vec& g,
                              std::span<const std::size_t> group_of,
                              const AdamMiniSettings& s,
                              double lr,
                              std::int64_t t) {
  const double bc1 = 1 - std::pow(s.beta1, static_cast<double>(t));
  const double bc2 = 1 - std::pow(s.beta2, static_cast<double>(t));
  AdamMiniStep out{weights, m, v};
  Vec sum(v.size()), count(v.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    sum[group_of[i]] += g[i] * g[i];
    count[group_of[i]] += 1;
  }
  for (std::size_t j = 0; j < v.size(); ++j) {
    out.v[j] = s.beta2 * v[j] + (1 - s.beta2) * sum[j] / count[j];
  }
  for (std::size_t i = 0; i < g.size(); ++i) {
    out.m[i] = s.beta1 * m[i] + (1 - s.beta1) * g[i];
    const double denominator = std::sqrt(out.v[group_of[i]] / bc2) + s.eps;
    out.weights[i] = weights[i] * (1 - lr * s.weight_decay) - lr * (out.m[i] / bc1) / denominator;
  }
  return out;
}

/// Group of each element where every output row of a (rows x columns) weight has one v.
inline std::vector<std::size_t> groups_of_rows(std::size_t rows, std::size_t columns) {
  std::vector<std::size_t> group_of(rows * columns);
  for (std::size_t i = 0; i < group_of.size(); ++i) {
    group_of[i] = i / columns;
  }
  return group_of;
}

}  // namespace strata::tests::twins
