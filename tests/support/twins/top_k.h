#pragma once
#include <numeric>

#include "tests/support/twins/formats.h"

namespace strata::tests::twins {

/// Elements kept of `count`: ceil(count * density).
inline std::size_t kept_of(std::size_t count, double density) {
  return static_cast<std::size_t>(std::ceil(static_cast<double>(count) * density));
}

struct TopK {
  std::vector<std::int16_t> indices;  // within their block, ascending; blocks one after the other
  std::vector<std::size_t> elements;  // the same from the tensor's start
  Vec margin;  // for every element of x: to the threshold, in f32 ulps of it or of its summand
};

/// Elements from the tensor's start of block-relative indices.
inline std::vector<std::size_t> elements_of(std::span<const std::int16_t> indices,
                                            std::size_t numel,
                                            std::size_t block,
                                            double density) {
  std::vector<std::size_t> out;
  for (std::size_t start = 0; start < numel; start += block) {
    const std::size_t kept = kept_of(std::min(block, numel - start), density);
    for (std::size_t k = 0; k < kept; ++k) {
      out.push_back(start + static_cast<std::size_t>(indices[out.size()]));
    }
  }
  return out;
}

/// The largest magnitudes of every block, of equal ones those of lower index. `terms`: largest
/// summand behind each x.
inline TopK top_k(const Vec& x, std::size_t block, double density, const Vec& terms = {}) {
  TopK out;
  out.margin.assign(x.size(), kFar);
  for (std::size_t start = 0; start < x.size(); start += block) {
    const std::size_t count = std::min(block, x.size() - start), kept = kept_of(count, density);
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), start);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::abs(x[a]) > std::abs(x[b]);
    });
    for (std::size_t k = 0; k < count && kept < count; ++k) {
      const std::size_t i = order[k];
      const double size = std::abs(x[i]), edge = std::abs(x[order[k < kept ? kept : kept - 1]]);
      const double largest = std::max({size, edge, terms.empty() ? 0 : terms[i]});
      out.margin[i] = largest == 0 ? kFar : std::abs(size - edge) / f32_ulp(largest);
    }
    std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept));
    for (std::size_t k = 0; k < kept; ++k) {
      out.elements.push_back(order[k]);
      out.indices.push_back(static_cast<std::int16_t>(order[k] - start));
    }
  }
  return out;
}

}  // namespace strata::tests::twins
