#pragma once
#include <numeric>

#include "tests/support/twins/formats.h"

namespace strata::tests::twins {

/// Row-major.
struct Matrix {
  std::size_t rows = 0, columns = 0;
  Vec values;

  double& at(std::size_t i, std::size_t j) { return values[i * columns + j]; }
  double at(std::size_t i, std::size_t j) const { return values[i * columns + j]; }
};

inline Matrix zeros(std::size_t rows, std::size_t columns) {
  return {rows, columns, Vec(rows * columns)};
}

inline Matrix transposed(const Matrix& x) {
  Matrix out = zeros(x.columns, x.rows);
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t j = 0; j < x.columns; ++j) {
      out.at(j, i) = x.at(i, j);
    }
  }
  return out;
}

inline Matrix product(const Matrix& x, const Matrix& y) {
  Matrix out = zeros(x.rows, y.columns);
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t k = 0; k < x.columns; ++k) {
      for (std::size_t j = 0; j < y.columns; ++j) {
        out.at(i, j) += x.at(i, k) * y.at(k, j);
      }
    }
  }
  return out;
}

inline double norm(std::span<const double> x) {
  double squared = 0;
  for (const double value : x) {
    squared += value * value;
  }
  return std::sqrt(squared);
}

/// x = u diag(s) v^T, s descending; u is (rows x k), v (columns x k), k the short side.
struct Svd {
  Matrix u, v;
  Vec s;
};

namespace detail {

/// One-sided Jacobi on the columns of x (rows >= columns): x becomes u diag(s), v collects turns.
inline void turn_columns(Matrix& x, Matrix& v) {
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool turned = false;
    for (std::size_t p = 0; p < x.columns; ++p) {
      for (std::size_t q = p + 1; q < x.columns; ++q) {
        double pp = 0, qq = 0, pq = 0;
        for (std::size_t i = 0; i < x.rows; ++i) {
          pp += x.at(i, p) * x.at(i, p);
          qq += x.at(i, q) * x.at(i, q);
          pq += x.at(i, p) * x.at(i, q);
        }
        if (std::abs(pq) <= 1e-15 * std::sqrt(pp * qq)) {
          continue;
        }
        turned = true;
        const double zeta = (qq - pp) / (2 * pq);
        const double tan = std::copysign(1 / (std::abs(zeta) + std::hypot(1, zeta)), zeta);
        const double cos = 1 / std::hypot(1, tan), sin = cos * tan;
        for (Matrix* m : {&x, &v}) {
          for (std::size_t i = 0; i < m->rows; ++i) {
            const double a = m->at(i, p), b = m->at(i, q);
            m->at(i, p) = cos * a - sin * b;
            m->at(i, q) = sin * a + cos * b;
          }
        }
      }
    }
    if (!turned) {
      return;
    }
  }
}

}  // namespace detail

inline Svd svd(const Matrix& x) {
  if (x.rows < x.columns) {
    Svd out = svd(transposed(x));
    std::swap(out.u, out.v);
    return out;
  }
  Matrix scaled = x, turns = zeros(x.columns, x.columns);
  for (std::size_t i = 0; i < x.columns; ++i) {
    turns.at(i, i) = 1;
  }
  detail::turn_columns(scaled, turns);
  Vec lengths(x.columns);
  for (std::size_t j = 0; j < x.columns; ++j) {
    for (std::size_t i = 0; i < x.rows; ++i) {
      lengths[j] += scaled.at(i, j) * scaled.at(i, j);
    }
    lengths[j] = std::sqrt(lengths[j]);
  }
  std::vector<std::size_t> order(x.columns);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return lengths[a] > lengths[b];
  });
  Svd out{zeros(x.rows, x.columns), zeros(x.columns, x.columns), Vec(x.columns)};
  for (std::size_t j = 0; j < x.columns; ++j) {
    out.s[j] = lengths[order[j]];
    for (std::size_t i = 0; i < x.rows && out.s[j] > 0; ++i) {
      out.u.at(i, j) = scaled.at(i, order[j]) / out.s[j];
    }
    for (std::size_t i = 0; i < x.columns; ++i) {
      out.v.at(i, j) = turns.at(i, order[j]);
    }
  }
  return out;
}

}  // namespace strata::tests::twins
