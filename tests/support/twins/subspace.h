#pragma once
#include "tests/support/twins/matrix.h"

namespace strata::tests::twins {

/// Which side of the matrix a basis compresses: its columns (G B^T) or its rows (B G).
enum class Side : std::uint8_t { right, left };

/// The short side; a square one on the right.
inline Side short_side(std::size_t rows, std::size_t columns) {
  return rows >= columns ? Side::right : Side::left;
}

/// r vectors over the compressed side S, or the rows of any r x S projection.
struct Basis {
  Side side = Side::right;
  Matrix rows;  // (r x S)
};

/// (L x r), L the other side, for both sides.
inline Matrix project(const Matrix& g, const Basis& basis) {
  return product(basis.side == Side::right ? g : transposed(g), transposed(basis.rows));
}

/// The sums of magnitudes that the rounding errors of project() are relative to.
inline Vec project_terms(const Matrix& g, const Basis& basis) {
  Matrix size = g;
  Basis size_basis = basis;
  for (Vec* values : {&size.values, &size_basis.rows.values}) {
    for (double& value : *values) {
      value = std::abs(value);
    }
  }
  return project(size, size_basis).values;
}

/// Back to the matrix' shape.
inline Matrix project_back(const Matrix& r, const Basis& basis) {
  const Matrix full = product(r, basis.rows);
  return basis.side == Side::right ? full : transposed(full);
}

/// The first r singular vectors, each with its largest entry positive.
inline Basis top_basis(const Matrix& g, std::size_t r) {
  const Side side = short_side(g.rows, g.columns);
  const Svd parts = svd(g);
  const Matrix& vectors = side == Side::right ? parts.v : parts.u;
  Basis out{side, zeros(r, vectors.rows)};
  for (std::size_t k = 0; k < r; ++k) {
    double largest = 0;
    for (std::size_t i = 0; i < vectors.rows; ++i) {
      out.rows.at(k, i) = vectors.at(i, k);
      largest = std::abs(vectors.at(i, k)) > std::abs(largest) ? vectors.at(i, k) : largest;
    }
    for (std::size_t i = 0; i < vectors.rows && largest < 0; ++i) {
      out.rows.at(k, i) *= -1;
    }
  }
  return out;
}

/// Largest entry of |B B^T - 1|.
inline double orthonormality_error(const Basis& basis) {
  const Matrix gram = product(basis.rows, transposed(basis.rows));
  double worst = 0;
  for (std::size_t i = 0; i < gram.rows; ++i) {
    for (std::size_t j = 0; j < gram.columns; ++j) {
      worst = std::max(worst, std::abs(gram.at(i, j) - (i == j ? 1 : 0)));
    }
  }
  return worst;
}

struct SubspaceEnergy {
  double captured = 0;  // |G B^T|^2
  double best = 0;      // of the first r singular vectors
  double total = 0;     // |G|^2
};

inline SubspaceEnergy subspace_energy(const Matrix& g, const Basis& basis) {
  SubspaceEnergy out;
  out.captured = std::pow(norm(project(g, basis).values), 2);
  out.total = std::pow(norm(g.values), 2);
  const Vec s = svd(g).s;
  for (std::size_t k = 0; k < std::min(basis.rows.rows, s.size()); ++k) {
    out.best += s[k] * s[k];
  }
  return out;
}

/// Frobenius distance of the projectors B^T B, which no turn or sign of the vectors changes.
inline double projector_distance(const Basis& x, const Basis& y) {
  const Matrix a = product(transposed(x.rows), x.rows), b = product(transposed(y.rows), y.rows);
  double squared = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    squared += std::pow(a.values[i] - b.values[i], 2);
  }
  return std::sqrt(squared);
}

}  // namespace strata::tests::twins
