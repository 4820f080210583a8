#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

#include "core/compress/low_rank.h"
#include "optim/tile.h"

namespace strata::optim {

/// Squared norms along the short side of a matrix and of its image, one for each index of the long
/// side, and scaling by such an index. Sums have one order whatever the threads.
class SideNorms {
 public:
  explicit SideNorms(const LowRankShape& shape) : shape_(shape) {}
  void matrix(const float* x, double* squares) const {
    squared(x, shape_.right() ? shape_.b : shape_.a, squares);
  }
  void image(const float* x, double* squares) const { squared(x, shape_.rank, squares); }
  /// to = x * (by[j] * all), of the matrix; `to` may be `x`.
  void scale(float* to, const float* x, const double* by, double all) const {
    optim::for_each_tile(shape_.a * shape_.b, [&](std::int64_t begin, std::int64_t n) {
      scale_tile(to + begin, x + begin, begin, n, by, all);
    });
  }
  /// Calls body(begin, n, x * by[j]) for the tiles of the matrix. `beside`: what the body reads at
  /// the same places.
  template <class Body>
  void for_each_tile(const float* x,
                     const double* by,
                     const float* beside,
                     const Body& body) const {
    optim::for_each_tile(shape_.a * shape_.b, [&](std::int64_t begin, std::int64_t n) {
      alignas(64) std::array<float, kTile> scaled;
      fetch_ahead(x + begin + kTile, kTile);
      scale_tile(scaled.data(), x + begin, begin, n, by, 1.0);
      fetch_ahead(beside + begin + kTile, kTile);  // not at once with x: loads would wait for both
      body(begin, n, scaled.data());
    });
  }

 private:
  void squared(const float* x, std::int64_t count, double* squares) const;
  void scale_tile(float* to,
                  const float* x,
                  std::int64_t begin,
                  std::int64_t n,
                  const double* by,
                  double all) const;
  LowRankShape shape_;
};

}  // namespace strata::optim
