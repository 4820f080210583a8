#include "core/compress/low_rank.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/compress/orthonormal.h"
#include "core/compress/scratch_size.h"
#include "core/compress/symmetric_eigen.h"
#include "core/compress/wide.h"
#include "core/cpu/lanes.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/cpu/squares.h"
#include "core/error.h"
#include "core/normal.h"
#include "core/parallel_for.h"

namespace strata {
namespace {

using namespace cpu;

MatmulShape projection_product(const LowRankShape& s) {
  return s.right() ? MatmulShape{.m = s.a, .n = s.rank, .k = s.b, .form = MatmulForm::abt}
                   : MatmulShape{.m = s.rank, .n = s.b, .k = s.a, .form = MatmulForm::ab};
}
MatmulShape back_product(const LowRankShape& s) {
  return s.right() ? MatmulShape{.m = s.a, .n = s.b, .k = s.rank, .form = MatmulForm::ab}
                   : MatmulShape{.m = s.a, .n = s.b, .k = s.rank, .form = MatmulForm::atb};
}

/// X (k, short_side) to X G^T or X G (k, long_side).
MatmulShape to_long(const LowRankShape& s, std::int64_t k) {
  return {.m = k,
          .n = s.long_side(),
          .k = s.short_side(),
          .form = s.right() ? MatmulForm::abt : MatmulForm::ab};
}
/// X (k, long_side) to X G or X G^T (k, short_side).
MatmulShape to_short(const LowRankShape& s, std::int64_t k) {
  return {.m = k,
          .n = s.short_side(),
          .k = s.long_side(),
          .form = s.right() ? MatmulForm::ab : MatmulForm::abt};
}
/// The leading eigenvectors (rank, k) times directions (k, short_side).
MatmulShape rotation(const LowRankShape& s, std::int64_t k) {
  return {.m = s.rank, .n = s.short_side(), .k = k};
}

template <class T>
Tensor view(T* data, std::int64_t rows, std::int64_t columns) {
  return {reinterpret_cast<std::byte*>(data), dtype_of<T>(), {rows, columns}};
}

/// What a step of an algorithm needs only while it runs.
std::int64_t largest(std::initializer_list<std::int64_t> sizes) {
  return std::max(sizes);
}

std::int64_t followed(const LowRankShape& s, const RandomizedSettings& settings) {
  return std::min(s.rank + settings.oversample, s.short_side());
}

struct TopBuffers {
  float *directions, *images, *eigenvectors_f32;  // (k, short_side), (k, long_side), (rank, k)
  double *products, *values;                      // (k, k), (k)
  std::span<std::byte> step;
};
template <class Taker>
TopBuffers take_top(Taker& from, const LowRankShape& s, std::int64_t k) {
  TopBuffers b{};
  b.directions = from.template array<float>(k * s.short_side());
  b.images = from.template array<float>(k * s.long_side());
  b.eigenvectors_f32 = from.template array<float>(s.rank * k);
  b.products = from.template array<double>(k * k);
  b.values = from.template array<double>(k);
  b.step = from.bytes(largest({matmul_scratch_bytes(to_long(s, k)),
                               matmul_scratch_bytes(to_short(s, k)),
                               matmul_scratch_bytes(rotation(s, k)),
                               orthonormalise_workspace_bytes(k, s.short_side()),
                               orthonormalise_workspace_bytes(s.rank, s.short_side()),
                               symmetric_eigen_workspace_bytes(k)}));
  return b;
}

struct ExactBuffers {
  float* transposed;          // (short_side, long_side)
  double *products, *values;  // (short_side, short_side), (short_side)
  std::span<std::byte> eigen;
};
template <class Taker>
ExactBuffers take_exact(Taker& from, const LowRankShape& s) {
  const std::int64_t n = s.short_side();
  ExactBuffers b{};
  b.transposed = s.right() ? from.template array<float>(n * s.long_side()) : nullptr;
  b.products = from.template array<double>(n * n);
  b.values = from.template array<double>(n);
  b.eigen = from.bytes(symmetric_eigen_workspace_bytes(n));
  return b;
}

void require(const char* who, const char* what, const Tensor& t, const Shape& shape) {
  if (t.dtype() == DType::f32 && t.is_contiguous() && t.shape() == shape) {
    return;
  }
  throw Error(Errc::internal,
              std::string(who) + ": " + what + " needs contiguous f32 " + to_string(shape) +
                  ", got " + std::string(to_string(t.dtype())) + " " + to_string(t.shape()));
}

void narrow(float* to, const double* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<float>(from[i]);
  }
}

/// Multiplies by the power of two that brings the largest value to [1, 2): the next product squares
/// the size of G, which f32 need not hold.
void bring_to_one(float* x, std::int64_t n) {
  simd([&] {
    const float top = lane_max(n, 0.f, [&](std::int64_t i) { return std::abs(x[i]); });
    const float scale = std::scalbn(1.f, -std::clamp(std::ilogb(top), -126, 126));
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      x[i] *= scale;
    }
  });
}

/// Makes the entry of largest magnitude of each row positive, the first of equals.
void fix_signs(const Tensor& basis) {
  const std::int64_t n = basis.shape()[1];
  for (std::int64_t r = 0; r < basis.shape()[0]; ++r) {
    float* row = basis.data<float>() + r * n;
    const float* top =
        std::max_element(row, row + n, [](float x, float y) { return std::abs(x) < std::abs(y); });
    if (*top < 0.f) {
      std::transform(row, row + n, row, [](float x) { return -x; });
    }
  }
}

}  // namespace

void LowRankShape::validate() const {
  if (a < 1 || b < 1) {
    throw Error(Errc::config,
                "low rank: a matrix with rows and columns is needed, got (" + std::to_string(a) +
                    ", " + std::to_string(b) + ")");
  }
  if (rank < 1 || rank > short_side()) {
    throw Error(Errc::config,
                "low rank: the rank of a (" + std::to_string(a) + ", " + std::to_string(b) +
                    ") matrix must be from 1 to " + std::to_string(short_side()) + ", got " +
                    std::to_string(rank) + "; use " +
                    std::to_string(std::clamp<std::int64_t>(rank, 1, short_side())));
  }
}

std::int64_t project_workspace_bytes(const LowRankShape& shape) {
  return matmul_scratch_bytes(projection_product(shape));
}

namespace {

/// Ranks at which a product is one pass over G; its kernels would pad them to a whole tile.
constexpr std::int64_t kNarrow = 2;

/// Rows of G against the directions, sums in float64 in an order that the length alone fixes.
void project_rows(
    float* R, const float* G, const float* basis, const LowRankShape& s, double* squares) {
  parallel_for(s.a, 1 + 4096 / s.b, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t k = 0; k < s.rank; ++k) {
          R[row * s.rank + k] = static_cast<float>(wide_dot(s.b, G + row * s.b, basis + k * s.b));
        }
        if (squares != nullptr) {
          squares[row] = sum_of_squares(G + row * s.b, s.b);
        }
      }
    });
  });
}

/// Columns of G, a strip of them from the first row to the last.
void project_columns(
    float* R, const float* G, const float* basis, const LowRankShape& s, double* squares) {
  constexpr std::int64_t kStrip = 512;
  parallel_for(s.b, kStrip, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t first = begin; first < end; first += kStrip) {
        const std::int64_t n = std::min(kStrip, end - first);
        if (squares != nullptr) {
          std::fill_n(squares + first, n, 0.0);
        }
        for (std::int64_t k = 0; k < s.rank; ++k) {
          double sums[kStrip] = {};
          for (std::int64_t row = 0; row < s.a; ++row) {
            const double by = basis[k * s.a + row];
            const float* const g = G + row * s.b + first;
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) {
              sums[i] = std::fma(by, static_cast<double>(g[i]), sums[i]);
            }
            if (squares != nullptr && k == 0) {
              double* const to = squares + first;
#pragma omp simd
              for (std::int64_t i = 0; i < n; ++i) {
                to[i] = std::fma(static_cast<double>(g[i]), static_cast<double>(g[i]), to[i]);
              }
            }
          }
          for (std::int64_t i = 0; i < n; ++i) {
            R[k * s.b + first + i] = static_cast<float>(sums[i]);
          }
        }
      }
    });
  });
}

}  // namespace

void project(const Tensor& R,
             const Tensor& G,
             const Tensor& basis,
             const LowRankShape& shape,
             std::span<std::byte> workspace,
             Stream& stream,
             double* squares) {
  if (shape.rank <= kNarrow) {
    STRATA_ASSERT(R.numel() == shape.projected().numel() && G.numel() == shape.a * shape.b);
    const auto narrow = shape.right() ? project_rows : project_columns;
    return narrow(R.data<float>(), G.data<float>(), basis.data<float>(), shape, squares);
  }
  const MatmulShape product = projection_product(shape);
  const Tensor &A = shape.right() ? G : basis, &B = shape.right() ? basis : G;
  const ProductSquares of_g = shape.right() ? ProductSquares{.rows_of_a = squares}
                                            : ProductSquares{.columns_of_b = squares};
  matmul(R, A, B, product, Accumulate::overwrite, workspace, stream, {}, of_g);
}

std::int64_t project_back_workspace_bytes(const LowRankShape& shape) {
  return matmul_scratch_bytes(back_product(shape));
}

void project_back(const Tensor& G,
                  const Tensor& R,
                  const Tensor& basis,
                  const LowRankShape& shape,
                  Accumulate mode,
                  std::span<std::byte> workspace,
                  Stream& stream) {
  const Tensor &A = shape.right() ? R : basis, &B = shape.right() ? basis : R;
  matmul(G, A, B, back_product(shape), mode, workspace, stream);
}

std::int64_t top_subspace_workspace_bytes(const LowRankShape& shape,
                                          const RandomizedSettings& settings) {
  ScratchSize size;
  take_top(size, shape, followed(shape, settings));
  return size.total_bytes();
}

void top_subspace(const Tensor& basis,
                  const Tensor& G,
                  const LowRankShape& shape,
                  const RandomizedSettings& settings,
                  const RandomKey& key,
                  std::span<std::byte> workspace,
                  Stream& stream) {
  shape.validate();
  require("top_subspace", "the basis", basis, shape.basis());
  require("top_subspace", "the matrix", G, {shape.a, shape.b});
  const std::int64_t k = followed(shape, settings), S = shape.short_side();
  const std::int64_t L = shape.long_side();
  Scratch scratch(workspace);
  const TopBuffers b = take_top(scratch, shape, k);
  const Tensor directions = view(b.directions, k, S), images = view(b.images, k, L);
  const auto multiply = [&](const Tensor& C, const Tensor& A, const Tensor& B, MatmulShape by) {
    matmul(C, A, B, by, Accumulate::overwrite, b.step, stream);
  };

  fill_normal({b.images, static_cast<std::size_t>(k * L)}, key, 0, 0.0, 1.0);
  multiply(directions, images, G, to_short(shape, k));
  bring_to_one(b.directions, k * S);
  for (int i = 0; i < settings.power_iterations; ++i) {
    orthonormalise(directions, Passes::condition, key, b.step, stream);
    multiply(images, directions, G, to_long(shape, k));
    bring_to_one(b.images, k * L);
    multiply(directions, images, G, to_short(shape, k));
    bring_to_one(b.directions, k * S);
  }
  orthonormalise(directions, Passes::orthonormal, key, b.step, stream);

  // The best directions within the span that was found: eigenvectors of Q G^T G Q^T.
  multiply(images, directions, G, to_long(shape, k));
  const Tensor products = view(b.products, k, k);
  gram(products, images, stream);
  symmetric_eigen(view(b.values, 1, k), products, products, b.step, stream);
  narrow(b.eigenvectors_f32, b.products, shape.rank * k);
  multiply(basis, view(b.eigenvectors_f32, shape.rank, k), directions, rotation(shape, k));
  orthonormalise(basis, Passes::orthonormal, key, b.step, stream);
  fix_signs(basis);
}

std::int64_t exact_subspace_workspace_bytes(const LowRankShape& shape) {
  ScratchSize size;
  take_exact(size, shape);
  return size.total_bytes();
}

void exact_subspace(const Tensor& basis,
                    const Tensor& G,
                    const LowRankShape& shape,
                    std::span<std::byte> workspace,
                    Stream& stream) {
  shape.validate();
  require("exact_subspace", "the basis", basis, shape.basis());
  require("exact_subspace", "the matrix", G, {shape.a, shape.b});
  const std::int64_t S = shape.short_side(), L = shape.long_side();
  Scratch scratch(workspace);
  const ExactBuffers b = take_exact(scratch, shape);
  Tensor rows = G;
  if (shape.right()) {
    rows = view(b.transposed, S, L);
    transpose(rows, G, L, S, stream);
  }
  const Tensor products = view(b.products, S, S);
  gram(products, rows, stream);
  symmetric_eigen(view(b.values, 1, S), products, products, b.eigen, stream);
  narrow(basis.data<float>(), b.products, shape.rank * S);
  fix_signs(basis);
}

void random_projection(const Tensor& basis, const RandomKey& key, Stream& stream) {
  STRATA_ASSERT(stream.lane() == Lane::compute && basis.is_contiguous());
  const double rank = static_cast<double>(basis.shape()[0]);
  fill_normal({basis.data<float>(), static_cast<std::size_t>(basis.numel())},
              key,
              0,
              0.0,
              1.0 / std::sqrt(rank));
}

std::int64_t random_orthonormal_workspace_bytes(const LowRankShape& shape) {
  return orthonormalise_workspace_bytes(shape.rank, shape.short_side());
}

void random_orthonormal(const Tensor& basis,
                        const RandomKey& key,
                        std::span<std::byte> workspace,
                        Stream& stream) {
  random_projection(basis, key, stream);
  orthonormalise(basis, Passes::orthonormal, key, workspace, stream);
}

}  // namespace strata
