#pragma once
#include <numeric>

#include "tests/support/twins/matrix.h"

namespace strata::tests::twins {

/// x of a x = b for symmetric positive definite a, by Cholesky.
inline Vec solve(Matrix a, Vec b) {
  const std::size_t n = a.rows;
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t i = j; i < n; ++i) {
      double sum = a.at(i, j);
      for (std::size_t k = 0; k < j; ++k) {
        sum -= a.at(i, k) * a.at(j, k);
      }
      a.at(i, j) = i == j ? std::sqrt(sum) : sum / a.at(j, j);
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      b[i] -= a.at(i, k) * b[k];
    }
    b[i] /= a.at(i, i);
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) {
      b[i] -= a.at(k, i) * b[k];
    }
    b[i] /= a.at(i, i);
  }
  return b;
}

/// a = v diag(values) v^T for symmetric positive semidefinite a, descending: its singular values,
/// and vectors that stay orthonormal where they are zero.
struct Eigen {
  Vec values;
  Matrix vectors;  // one per column
};

inline Eigen eigen(const Matrix& a) {
  const Svd parts = svd(a);
  return {parts.s, parts.v};
}

/// Orthonormal columns of x, each turned to its own column (positive diagonal of the other factor).
inline Matrix qr_basis(const Matrix& x) {
  Matrix q = x;
  for (std::size_t j = 0; j < q.columns; ++j) {
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t k = 0; k < j; ++k) {
        double along = 0;
        for (std::size_t i = 0; i < q.rows; ++i) {
          along += q.at(i, k) * q.at(i, j);
        }
        for (std::size_t i = 0; i < q.rows; ++i) {
          q.at(i, j) -= along * q.at(i, k);
        }
      }
    }
    double squared = 0;
    for (std::size_t i = 0; i < q.rows; ++i) {
      squared += q.at(i, j) * q.at(i, j);
    }
    for (std::size_t i = 0; i < q.rows && squared > 0; ++i) {
      q.at(i, j) /= std::sqrt(squared);
    }
  }
  return q;
}

/// Inner products of the rows of c.
inline Matrix gram_of_rows(const Matrix& c) {
  return product(c, transposed(c));
}

}  // namespace strata::tests::twins
