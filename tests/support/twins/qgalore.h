#pragma once
#include "tests/support/twins/galore.h"

namespace strata::tests::twins {

/// When to refresh a basis: the gap doubles while its first vector keeps its direction.
struct LazyRefresh {
  enum class Similarity : std::uint8_t { absolute, signed_cosine };  // native; the reference
  enum class Due : std::uint8_t { since_last, multiple };            // native; the reference
  double threshold = 0.4;
  std::size_t queue_size = 5;
  Similarity similarity = Similarity::absolute;
  Due due = Due::since_last;

  std::int64_t gap = 200, last = -1;  // last < 0: no refresh yet
  Vec queue;
  Vec first_vector;

  bool is_due(std::int64_t step_index) const {
    if (last < 0) {
      return true;
    }
    return due == Due::since_last ? step_index >= last + gap : step_index % gap == 0;
  }
  /// Notes a refresh with this first vector, before it is quantised; the first pushes nothing.
  void refreshed(std::int64_t step_index, const Vec& vector) {
    if (last >= 0) {
      double along = 0;
      for (std::size_t i = 0; i < vector.size(); ++i) {
        along += vector[i] * first_vector[i];
      }
      push(along / (norm(vector) * norm(first_vector)));
    }
    last = step_index;
    first_vector = vector;
  }
  void push(double cosine) {
    queue.push_back(similarity == Similarity::absolute ? std::abs(cosine) : cosine);
    if (queue.size() > queue_size) {
      queue.erase(queue.begin());
    }
    const double sum = std::accumulate(queue.begin(), queue.end(), 0.0);
    if (queue.size() == queue_size && sum / static_cast<double>(queue_size) >= threshold) {
      gap *= 2;
    }
  }
};

struct QGaLoreStep {
  Vec exact;             // weights before they are quantised again
  IntQuantised weights;  // unchanged in groups where the update is all zero
  AdamState state;
  AdamDirection adam;
  bool moved = true;
};

/// The largest summands behind each weight: where a projection or a first moment cancels, what is
/// left of its rounding errors is divided by the root of a small second moment.
inline Vec weight_terms(const Vec& before,
                        const AdamState& state,
                        const Matrix& g,
                        const Basis& basis,
                        const GaLoreSettings& s,
                        double lr,
                        const GaLoreStep& step) {
  const Vec sums = project_terms(g, basis), old = decode(state.m);
  Matrix parts = step.projected;
  for (std::size_t i = 0; i < old.size(); ++i) {
    const double v = step.adam.v[i], r = std::abs(step.projected.values[i]);
    double part = std::max(s.adam.beta1 * std::abs(old[i]), (1 - s.adam.beta1) * sums[i]);
    if (v > 0) {
      part += std::abs(step.adam.m[i]) * (1 - s.adam.beta2) * r * sums[i] / v;
    }
    parts.values[i] = step.adam.correction * part / (std::sqrt(v) + s.adam.eps);
  }
  Basis sizes = basis;
  for (double& value : sizes.rows.values) {
    value = std::abs(value);
  }
  Vec terms = project_back(parts, sizes).values;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    terms[i] = std::max({std::abs(before[i]), lr, lr * s.scale * terms[i]});
  }
  return terms;
}

/// GaLore on 8-bit weights of `group` elements with the dequantised basis; groups of weights are
/// quantised again with fresh ranges and `noise`, unless nothing in them moved. `zero`: the
/// kernel's new zero points.
inline QGaLoreStep qgalore(const IntQuantised& weights,
                           std::size_t rows,
                           std::size_t columns,
                           const AdamState& state,
                           const Matrix& g,
                           const Basis& basis,
                           const GaLoreSettings& s,
                           double lr,
                           std::int64_t t,
                           std::span<const double> noise,
                           std::size_t group = 256,
                           std::span<const std::uint8_t> zero = {}) {
  const Vec before = dequantise_int(weights.codes, weights.scale, weights.zero, group);
  const GaLoreStep step = galore({rows, columns, before}, state, g, basis, s, lr, t);
  const Vec terms = weight_terms(before, state, g, basis, s, lr, step);
  QGaLoreStep out{
      step.weights.values,
      quantise_int(step.weights.values, 8, group, IntRange::with_zero, noise, zero, terms),
      step.state,
      step.adam,
      step.weights.values != before};
  for (std::size_t start = 0; start < before.size(); start += group) {
    const std::size_t end = std::min(start + group, before.size()), j = start / group;
    bool stands = true;
    for (std::size_t i = start; i < end; ++i) {
      stands = stands && out.exact[i] == before[i];
    }
    if (stands) {
      for (std::size_t i = start; i < end; ++i) {
        out.weights.codes[i] = weights.codes[i];
        out.weights.margin[i] = kFar;
      }
      out.weights.scale[j] = weights.scale[j];
      out.weights.zero[j] = weights.zero[j];
      out.weights.zero_margin[j] = kFar;
    }
  }
  return out;
}

}  // namespace strata::tests::twins
