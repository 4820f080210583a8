#include "core/compress/symmetric_eigen.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "core/compress/scratch_size.h"
#include "core/compress/wide.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/parallel_for.h"

namespace strata {
namespace {

using namespace cpu;

// Columns of a panel of the eigenvector matrix. Reflections and rotations mix rows and leave
// columns apart, so each panel goes through all of them alone: 2048 rows of 32 columns are half a
// second-level cache.
constexpr std::int64_t kPanel = 32;
constexpr std::int64_t kVectors = kPanel / kWide;
// Rotations are kept until this many per row, or this many sweeps, are worth a pass over a panel.
constexpr std::int64_t kRotationsPerRow = 64, kSweeps = 1024;
// Below this share of the largest element a row counts as zero: squares of its elements underflow.
constexpr double kNothing = 1e-100;

struct Rotation {
  double cosine, sine;
};
/// Rotations of the row pairs (first, first + 1), (first - 1, first), ...
struct Sweep {
  std::int64_t first, count;
  const Rotation* rotations;
};

constexpr std::int64_t panels_of(std::int64_t n) {
  return (n + kPanel - 1) / kPanel;
}

struct Buffers {
  double *panels, *off_diagonal, *product, *next_product, *reflector_norm;
  Rotation* rotations;
  Sweep* sweeps;
  std::int32_t* order;
};
template <class Taker>
Buffers take_buffers(Taker& from, std::int64_t n) {
  Buffers b{};
  b.panels = from.template array<double>(panels_of(n) * n * kPanel);
  b.off_diagonal = from.template array<double>(n);
  b.product = from.template array<double>(n);
  b.next_product = from.template array<double>(n);
  b.reflector_norm = from.template array<double>(n);
  b.rotations = from.template array<Rotation>(n * kRotationsPerRow);
  b.sweeps = from.template array<Sweep>(kSweeps);
  b.order = from.template array<std::int32_t>(n);
  return b;
}

/// Copies the lower triangle to both halves of A, multiplied by `scale`.
void copy_symmetric(double* A, const double* matrix, std::int64_t n, double scale) {
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      A[i * n + j] = matrix[i * n + j] * scale;
    }
  }
  constexpr std::int64_t kTile = 64;  // else every store opens another page
  for (std::int64_t i0 = 0; i0 < n; i0 += kTile) {
    for (std::int64_t j = 0; j < std::min(n, i0 + kTile); ++j) {
      for (std::int64_t i = std::max(i0, j + 1); i < std::min(n, i0 + kTile); ++i) {
        A[j * n + i] = A[i * n + j];
      }
    }
  }
}

/// Largest |element| of the lower triangle, checked to be finite.
double largest(const double* matrix, std::int64_t n) {
  double top = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      const double x = std::abs(matrix[i * n + j]);
      if (!(x <= std::numeric_limits<double>::max())) {
        throw Error(Errc::numerics,
                    "symmetric_eigen: element (" + std::to_string(i) + ", " + std::to_string(j) +
                        ") must be finite, got " + std::to_string(matrix[i * n + j]) +
                        "; skip the step whose gradients are not finite");
      }
      top = std::max(top, x);
    }
  }
  return top;
}

/// Turns x (n) into the vector v of a reflection I - v v^T / h that maps x to `image` times the
/// last unit vector. h = 0: x is there already.
struct Reflection {
  double h = 0.0, image = 0.0;
};
Reflection make_reflection(double* x, std::int64_t n) {
  double top = 0.0;
  for (std::int64_t k = 0; k + 1 < n; ++k) {
    top = std::max(top, std::abs(x[k]));
  }
  if (top < kNothing) {
    return {.image = x[n - 1]};
  }
  top = std::max(top, std::abs(x[n - 1]));
  double h = 0.0;
  simd([&] {
    for (std::int64_t k = 0; k < n; ++k) {
      x[k] /= top;
    }
    h = wide_dot(n, x, x);
  });
  const double last = x[n - 1];
  const double image = last >= 0.0 ? -std::sqrt(h) : std::sqrt(h);
  x[n - 1] = last - image;
  return {.h = h - last * image, .image = top * image};
}

/// Rows [begin, end) of the leading n x n part of A: subtracts v q^T + q v^T (q empty: nothing) and
/// multiplies by `next`, in one pass over memory.
struct RankTwo {
  const double *v = nullptr, *q = nullptr;
};
void update_row(double* row, std::int64_t n, std::int64_t k, const RankTwo& update) {
  const double vk = update.v[k], qk = update.q[k];
  const double *v = update.v, *q = update.q;
#pragma GCC ivdep
  for (std::int64_t j = 0; j < n; ++j) {
    row[j] -= vk * q[j] + qk * v[j];
  }
}
void update_and_multiply(double* A,
                         std::int64_t pitch,
                         std::int64_t n,
                         const RankTwo& update,
                         const double* next,
                         double* product) {
  constexpr std::int64_t kWork = 1 << 15;  // elements that are worth another thread
  parallel_for(n, std::max<std::int64_t>(1, kWork / n), [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t k = begin; k < end; ++k) {
        double* row = A + k * pitch;
        if (update.q != nullptr) {
          update_row(row, n, k, update);
        }
        product[k] = wide_dot(n, row, next);
      }
    });
  });
}

/// A (both halves) becomes tridiagonal: diagonal d, off_diagonal[i] beside d[i] and d[i - 1]. Row i
/// of A keeps the vector of the reflection of the first i coordinates, reflector_norm its h.
void tridiagonalise(double* A, double* d, std::int64_t n, Buffers& b) {
  RankTwo update;
  for (std::int64_t i = n - 1; i > 0; --i) {
    double* row = A + i * n;
    if (update.q != nullptr) {
      simd([&] { update_row(row, i + 1, i, update); });
    }
    d[i] = row[i];
    const Reflection reflection = make_reflection(row, i);
    const double h = reflection.h;
    b.off_diagonal[i] = reflection.image;
    b.reflector_norm[i] = h;
    update_and_multiply(A, n, i, update, row, b.next_product);
    update = {};
    if (h == 0.0) {
      continue;
    }
    std::swap(b.product, b.next_product);
    simd([&] {
      const double half = wide_dot(i, row, b.product) / (2.0 * h * h);
      for (std::int64_t k = 0; k < i; ++k) {
        b.product[k] = b.product[k] / h - half * row[k];
      }
    });
    update = {.v = row, .q = b.product};
  }
  if (update.q != nullptr) {
    update_row(A, 1, 0, update);
  }
  d[0] = A[0];
}

/// panel (n, kPanel) = reflections of A, first the one of row n - 1, applied to columns
/// [column, column + kPanel) of the identity.
void reflect_identity(double* panel,
                      std::int64_t column,
                      const double* A,
                      const double* reflector_norm,
                      std::int64_t n) {
  std::fill(panel, panel + n * kPanel, 0.0);
  for (std::int64_t c = 0; c < kPanel && column + c < n; ++c) {
    panel[(column + c) * kPanel + c] = 1.0;
  }
  for (std::int64_t i = n - 1; i > 0; --i) {
    if (reflector_norm[i] == 0.0) {
      continue;
    }
    const double* v = A + i * n;
    Wide sum[kVectors] = {};
    for (std::int64_t k = 0; k < i; ++k) {
      for (std::int64_t w = 0; w < kVectors; ++w) {
        Wide z;
        load_wide(z, panel + k * kPanel + w * kWide);
        sum[w] += v[k] * z;
      }
    }
    for (Wide& s : sum) {
      s /= reflector_norm[i];
    }
    for (std::int64_t k = 0; k < i; ++k) {
      for (std::int64_t w = 0; w < kVectors; ++w) {
        Wide z;
        load_wide(z, panel + k * kPanel + w * kWide);
        z -= v[k] * sum[w];
        store_wide(panel + k * kPanel + w * kWide, z);
      }
    }
  }
}

/// One sweep over a panel; the row that two rotations share stays in registers.
void rotate_panel(double* panel, const Sweep& sweep) {
  Wide upper[kVectors];
  for (std::int64_t w = 0; w < kVectors; ++w) {
    load_wide(upper[w], panel + (sweep.first + 1) * kPanel + w * kWide);
  }
  double* at = panel + sweep.first * kPanel;
  for (std::int64_t r = 0; r < sweep.count; ++r, at -= kPanel) {
    const double c = sweep.rotations[r].cosine, s = sweep.rotations[r].sine;
    for (std::int64_t w = 0; w < kVectors; ++w) {
      Wide lower;
      load_wide(lower, at + w * kWide);
      const Wide rotated = s * lower + c * upper[w];
      store_wide(at + kPanel + w * kWide, rotated);
      upper[w] = c * lower - s * upper[w];
    }
  }
  for (std::int64_t w = 0; w < kVectors; ++w) {
    store_wide(at + kPanel + w * kWide, upper[w]);
  }
}

/// sqrt(a^2 + b^2) without overflow, by correctly rounded operations only.
double length(double a, double b) {
  const double large = std::max(std::abs(a), std::abs(b));
  const double small = std::min(std::abs(a), std::abs(b));
  return large == 0.0 ? 0.0 : large * std::sqrt(1.0 + (small / large) * (small / large));
}

/// The eigenvalues of the tridiagonal matrix (d, e) replace d; the rotations go over the panels.
class TridiagonalQl {
 public:
  TridiagonalQl(double* d, std::int64_t n, const Buffers& buffers)
      : d_(d), e_(buffers.off_diagonal), n_(n), b_(buffers) {}

  void run() {
    std::move(e_ + 1, e_ + n_, e_);
    e_[n_ - 1] = 0.0;
    const std::int64_t limit = 50 * n_;  // two or three sweeps for each eigenvalue are usual
    std::int64_t sweeps = 0;
    for (std::int64_t l = 0; l < n_; ++l) {
      for (std::int64_t m = block_end(l); m != l; m = block_end(l)) {
        if (++sweeps > limit) {
          throw Error(Errc::internal, "symmetric_eigen: no convergence, n " + std::to_string(n_));
        }
        sweep(l, m);
      }
    }
    flush();
  }

 private:
  /// The last row of the unreduced block that begins at l.
  std::int64_t block_end(std::int64_t l) const {
    constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
    std::int64_t m = l;
    while (m + 1 < n_ && std::abs(e_[m]) > kEpsilon * (std::abs(d_[m]) + std::abs(d_[m + 1])) &&
           std::abs(e_[m]) > kNothing) {
      ++m;
    }
    return m;
  }

  void sweep(std::int64_t l, std::int64_t m) {
    make_room(m - l);
    double g = (d_[l + 1] - d_[l]) / (2.0 * e_[l]);
    g = d_[m] - d_[l] + e_[l] / (g + std::copysign(length(g, 1.0), g));
    double s = 1.0, c = 1.0, p = 0.0;
    Rotation* to = b_.rotations + rotations_;
    std::int64_t i = m - 1;
    for (; i >= l; --i) {
      const double f = s * e_[i], b = c * e_[i];
      const double r = length(f, g);
      e_[i + 1] = r;
      if (r == 0.0) {  // the matrix falls apart here
        d_[i + 1] -= p;
        e_[m] = 0.0;
        break;
      }
      s = f / r;
      c = g / r;
      g = d_[i + 1] - p;
      const double t = (d_[i] - g) * s + 2.0 * c * b;
      p = s * t;
      d_[i + 1] = g + p;
      g = c * t - b;
      *to++ = {c, s};
    }
    if (i < l) {
      d_[l] -= p;
      e_[l] = g;
      e_[m] = 0.0;
    }
    keep({m - 1, m - 1 - i, b_.rotations + rotations_});
  }

  void make_room(std::int64_t count) {
    if (rotations_ + count > n_ * kRotationsPerRow || sweeps_ == kSweeps) {
      flush();
    }
  }
  void keep(const Sweep& sweep) {
    b_.sweeps[sweeps_++] = sweep;
    rotations_ += sweep.count;
  }
  void flush() {
    parallel_for(panels_of(n_), 1, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t p = begin; p < end; ++p) {
          for (std::int64_t k = 0; k < sweeps_; ++k) {
            rotate_panel(b_.panels + p * n_ * kPanel, b_.sweeps[k]);
          }
        }
      });
    });
    rotations_ = sweeps_ = 0;
  }

  double *d_, *e_;
  std::int64_t n_;
  const Buffers& b_;
  std::int64_t rotations_ = 0, sweeps_ = 0;
};

/// Sorts d and writes row order[i] of the panels to row i of vectors.
void write_sorted(double* values, double* vectors, double unscale, std::int64_t n, Buffers& b) {
  std::iota(b.order, b.order + n, 0);
  std::sort(b.order, b.order + n, [&](std::int32_t i, std::int32_t j) {
    return values[i] != values[j] ? values[i] > values[j] : i < j;
  });
  for (std::int64_t i = 0; i < n; ++i) {
    b.product[i] = values[b.order[i]] * unscale;
    for (std::int64_t p = 0; p < panels_of(n); ++p) {
      const double* from = b.panels + (p * n + b.order[i]) * kPanel;
      std::copy_n(from, std::min(kPanel, n - p * kPanel), vectors + i * n + p * kPanel);
    }
  }
  std::copy_n(b.product, n, values);
}

}  // namespace

std::int64_t symmetric_eigen_workspace_bytes(std::int64_t n) {
  ScratchSize size;
  take_buffers(size, n);
  return size.total_bytes();
}

void symmetric_eigen(const Tensor& values,
                     const Tensor& vectors,
                     const Tensor& matrix,
                     std::span<std::byte> workspace,
                     Stream& stream) {
  const std::int64_t n = values.numel();
  STRATA_ASSERT(stream.lane() == Lane::compute);
  STRATA_ASSERT(n > 0 && matrix.numel() == n * n && vectors.numel() == n * n);
  STRATA_ASSERT(matrix.is_contiguous() && vectors.is_contiguous() && values.is_contiguous());
  Scratch scratch(workspace);
  Buffers b = take_buffers(scratch, n);
  double *d = values.data<double>(), *A = vectors.data<double>();
  const double* input = matrix.data<double>();
  const double top = largest(input, n);
  // A power of two, so that scaling back is exact.
  const double scale = std::scalbn(1.0, -std::clamp(std::ilogb(top), -1000, 1000));
  copy_symmetric(A, input, n, scale);
  tridiagonalise(A, d, n, b);
  parallel_for(panels_of(n), 1, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t p = begin; p < end; ++p) {
        reflect_identity(b.panels + p * n * kPanel, p * kPanel, A, b.reflector_norm, n);
      }
    });
  });
  TridiagonalQl(d, n, b).run();
  write_sorted(d, A, 1.0 / scale, n, b);
}

}  // namespace strata
