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
  IntQuantised weights;  // unchanged bytes where the update is all zero
  bool moved = true;
  AdamState state;
  AdamDirection adam;
};

/// GaLore on 8-bit weights of `group` elements with the dequantised basis; the weights are
/// quantised again with fresh ranges and `noise`, unless nothing moved. `zero`: the kernel's new
/// zero points.
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
  GaLoreStep step = galore({rows, columns, before}, state, g, basis, s, lr, t);
  QGaLoreStep out{step.weights.values, weights, true, step.state, step.adam};
  out.moved = out.exact != before;
  if (out.moved) {
    out.weights = quantise_int(out.exact, 8, group, IntRange::with_zero, noise, zero);
  }
  return out;
}

}  // namespace strata::tests::twins
