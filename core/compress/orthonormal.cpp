#include "core/compress/orthonormal.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/compress/scratch_size.h"
#include "core/compress/wide.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/matmul.h"
#include "core/normal.h"
#include "core/parallel_for.h"

namespace strata {
namespace {

using namespace cpu;

// Rows of one tile of the Gram matrix, in registers, and of the strip that stays in the cache.
constexpr std::int64_t kTile = 4, kStrip = 16;
// Draws of replaced rows are counted from here: no matrix has that many elements.
constexpr std::int64_t kReplacements = std::int64_t{1} << 62;
constexpr std::int64_t kDrawsPerPass = std::int64_t{1} << 52;

/// C[i][j] = row i * row j for kTile x kTile pairs, lanes along the rows.
void gram_tile(double* C, std::int64_t pitch, const float* a, const float* b, std::int64_t n) {
  Wide acc[kTile][kTile] = {};
  std::int64_t k = 0;
  for (; k + kWide <= n; k += kWide) {
    Wide y[kTile];
    for (std::int64_t j = 0; j < kTile; ++j) {
      load_wide(y[j], b + j * n + k);
    }
    for (std::int64_t i = 0; i < kTile; ++i) {
      Wide x;
      load_wide(x, a + i * n + k);
      for (std::int64_t j = 0; j < kTile; ++j) {
        acc[i][j] += x * y[j];
      }
    }
  }
  for (std::int64_t i = 0; i < kTile; ++i) {
    for (std::int64_t j = 0; j < kTile; ++j) {
      double sum = fold_wide(acc[i][j]);
      for (std::int64_t r = k; r < n; ++r) {
        sum += static_cast<double>(a[i * n + r]) * static_cast<double>(b[j * n + r]);
      }
      C[i * pitch + j] = sum;
    }
  }
}

/// The same sums in the same order for pairs of rows that fill no tile.
double gram_pair(const float* a, const float* b, std::int64_t n) {
  Wide acc = {};
  std::int64_t k = 0;
  for (; k + kWide <= n; k += kWide) {
    Wide x, y;
    load_wide(x, a + k);
    load_wide(y, b + k);
    acc += x * y;
  }
  double sum = fold_wide(acc);
  for (; k < n; ++k) {
    sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  }
  return sum;
}

/// Rows [begin, end) of the lower triangle; tiles may reach above the diagonal.
void gram_strip(double* C,
                const float* X,
                std::int64_t begin,
                std::int64_t end,
                std::int64_t m,
                std::int64_t n) {
  const std::int64_t whole = begin + (end - begin) / kTile * kTile;
  for (std::int64_t j = 0; j < end; j += kTile) {
    const bool tiled = j + kTile <= m;
    for (std::int64_t i = begin; i < end; i += kTile) {
      if (tiled && i < whole) {
        gram_tile(C + i * m + j, m, X + i * n, X + j * n, n);
        continue;
      }
      for (std::int64_t r = i; r < std::min(end, i + kTile); ++r) {
        for (std::int64_t c = j; c <= std::min(r, j + kTile - 1); ++c) {
          C[r * m + c] = gram_pair(X + r * n, X + c * n, n);
        }
      }
    }
  }
}

struct Buffers {
  double *gram, *inverse, *lengths;
  float *coefficients, *copy;
  std::span<std::byte> product;
};
MatmulShape product_shape(std::int64_t m, std::int64_t n) {
  return {.m = m, .n = n, .k = m};
}
template <class Taker>
Buffers take_buffers(Taker& from, std::int64_t m, std::int64_t n) {
  Buffers b{};
  b.gram = from.template array<double>(m * m);
  b.inverse = from.template array<double>(m * m);
  b.lengths = from.template array<double>(m);
  b.coefficients = from.template array<float>(m * m);
  b.copy = from.template array<float>(m * n);
  b.product = from.bytes(matmul_scratch_bytes(product_shape(m, n)));
  return b;
}

/// Largest distance of an element of the lower triangle from the identity; NaN if one is not
/// finite.
double distance_from_identity(const double* G, std::int64_t m) {
  double top = 0.0;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      const double distance = std::abs(G[i * m + j] - (i == j ? 1.0 : 0.0));
      if (!std::isfinite(distance)) {
        return distance;
      }
      top = std::max(top, distance);
    }
  }
  return top;
}

/// G becomes the Cholesky factor L of itself, scaled to a diagonal of ones. A row that depends on
/// those before it becomes a row of the identity and is marked by lengths[i] = 0; else lengths[i]
/// is the length of row i.
void factorise(double* G, double* lengths, std::int64_t m) {
  constexpr double kDependent = 1e-10;  // of the squared length
  constexpr double kNothing = 1e-60;    // 1 / length would leave the range of f32
  for (std::int64_t i = 0; i < m; ++i) {
    lengths[i] = G[i * m + i] < kNothing ? 0.0 : std::sqrt(G[i * m + i]);
  }
  for (std::int64_t i = 0; i < m; ++i) {
    double* row = G + i * m;
    simd([&] {
      for (std::int64_t j = 0; j < i; ++j) {
        const double* other = G + j * m;
        const double scale = lengths[i] * lengths[j];
        row[j] = scale == 0.0 ? 0.0 : (row[j] / scale - wide_dot(j, row, other)) / other[j];
      }
    });
    const double left = 1.0 - wide_dot(i, row, row);
    if (lengths[i] == 0.0 || left < kDependent) {
      lengths[i] = 0.0;
      std::fill(row, row + i, 0.0);
    }
    row[i] = lengths[i] == 0.0 ? 1.0 : std::sqrt(left);
  }
}

/// coefficients = L^-1 * diag(1 / lengths) as f32; a marked row passes as it is.
void invert(const Buffers& b, const double* lengths, std::int64_t m) {
  for (std::int64_t i = 0; i < m; ++i) {
    const double* L = b.gram + i * m;
    double* row = b.inverse + i * m;
    std::fill(row, row + m, 0.0);
    row[i] = 1.0;
    simd([&] {
      for (std::int64_t j = 0; j < i; ++j) {
        const double* other = b.inverse + j * m;
        const double factor = L[j];
#pragma GCC ivdep
        for (std::int64_t k = 0; k <= j; ++k) {
          row[k] -= factor * other[k];
        }
      }
      for (std::int64_t k = 0; k <= i; ++k) {
        row[k] /= L[i];
      }
    });
    for (std::int64_t k = 0; k < m; ++k) {
      const double scale = lengths[k] == 0.0 ? 1.0 : lengths[k];
      b.coefficients[i * m + k] = static_cast<float>(row[k] / scale);
    }
  }
}

/// copy = coefficients * rows, and back; marked rows are drawn anew.
void apply(const Tensor& rows,
           const Buffers& b,
           const double* lengths,
           const RandomKey& key,
           std::int64_t first_draw,
           Stream& stream) {
  const std::int64_t m = rows.shape()[0], n = rows.shape()[1];
  const Tensor coefficients(reinterpret_cast<std::byte*>(b.coefficients), DType::f32, {m, m});
  const Tensor copy(reinterpret_cast<std::byte*>(b.copy), DType::f32, {m, n});
  matmul(copy, coefficients, rows, product_shape(m, n), Accumulate::overwrite, b.product, stream);
  float* X = rows.data<float>();
  std::copy_n(b.copy, m * n, X);
  for (std::int64_t i = 0; i < m; ++i) {
    if (lengths[i] == 0.0) {
      const std::span<float> row(X + i * n, static_cast<std::size_t>(n));
      fill_normal(row, key, first_draw + i * n, 0.0, 1.0 / std::sqrt(static_cast<double>(n)));
    }
  }
}

}  // namespace

void gram(const Tensor& gram, const Tensor& rows, Stream& stream) {
  const std::int64_t m = rows.shape()[0], n = rows.shape()[1];
  STRATA_ASSERT(stream.lane() == Lane::compute);
  STRATA_ASSERT(gram.numel() == m * m && gram.is_contiguous() && rows.is_contiguous());
  double* C = gram.data<double>();
  const float* X = rows.data<float>();
  const std::int64_t strips = (m + kStrip - 1) / kStrip;
  parallel_for(strips, 1, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t s = begin; s < end; ++s) {
        const std::int64_t first = (strips - 1 - s) * kStrip;  // the longest first
        gram_strip(C, X, first, std::min(m, first + kStrip), m, n);
      }
    });
  });
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < i; ++j) {
      C[j * m + i] = C[i * m + j];
    }
  }
}

std::int64_t orthonormalise_workspace_bytes(std::int64_t m, std::int64_t n) {
  ScratchSize size;
  take_buffers(size, m, n);
  return size.total_bytes();
}

void orthonormalise(const Tensor& rows,
                    Passes passes,
                    const RandomKey& key,
                    std::span<std::byte> workspace,
                    Stream& stream) {
  constexpr int kMostPasses = 12;  // two or three are usual, one more for each that drew rows
  const std::int64_t m = rows.shape()[0], n = rows.shape()[1];
  STRATA_ASSERT(m > 0 && m <= n);
  Scratch scratch(workspace);
  const Buffers b = take_buffers(scratch, m, n);
  const Tensor products(reinterpret_cast<std::byte*>(b.gram), DType::f64, {m, m});
  for (int pass = 0; pass < kMostPasses; ++pass) {
    gram(products, rows, stream);
    const double distance = distance_from_identity(b.gram, m);
    if (!std::isfinite(distance)) {
      throw Error(Errc::numerics,
                  "orthonormalise: every value of " + to_string(rows.shape()) +
                      " must be finite and its square sum below 1e308; skip the step whose "
                      "gradients are not finite");
    }
    if (passes == Passes::orthonormal && distance <= kOrthonormal) {
      return;
    }
    factorise(b.gram, b.lengths, m);
    invert(b, b.lengths, m);
    apply(rows, b, b.lengths, key, kReplacements + pass * kDrawsPerPass, stream);
    if (passes == Passes::condition) {
      return;
    }
  }
  throw Error(Errc::internal, "orthonormalise: no convergence for " + to_string(rows.shape()));
}

}  // namespace strata
