#pragma once
#include "tests/support/twins/matrix.h"

namespace strata::tests::twins {

/// Reproducible values, roughly normal.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_(seed * 2 + 1) {}
  double uniform() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform());
  }
  Vec normals(std::size_t n) {
    Vec out(n);
    for (double& value : out) {
      value = normal();
    }
    return out;
  }

 private:
  std::uint64_t state_;
};

inline Matrix random_matrix(std::size_t rows, std::size_t columns, Draws& draws) {
  return {rows, columns, draws.normals(rows * columns)};
}

}  // namespace strata::tests::twins
