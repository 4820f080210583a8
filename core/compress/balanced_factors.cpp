#include "core/compress/balanced_factors.h"

#include <algorithm>
#include <cmath>

#include "core/compress/orthonormal.h"
#include "core/compress/scratch_size.h"
#include "core/compress/symmetric_eigen.h"
#include "core/compress/wide.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/error.h"
#include "core/parallel_for.h"

namespace strata {
namespace {

constexpr std::int64_t kColumns = 64;  // of a factor that are made together

/// A factor as M * Q, Q with orthonormal rows that are not formed: M = root * P, where the rows of
/// P are the eigenvectors of factor * factor^T.
struct Triangle {
  double *vectors = nullptr, *root = nullptr, *inverse = nullptr;
};

struct Room {
  Triangle left, right;
  double *core = nullptr, *turn = nullptr, *by = nullptr;
  double *values = nullptr, *image = nullptr;
  float* rows = nullptr;
  std::span<std::byte> rest;

  template <class From>
  static Room lay_out(From& from, std::int64_t a, std::int64_t b, std::int64_t r) {
    Room room;
    for (Triangle* of : {&room.left, &room.right}) {
      of->vectors = from.template array<double>(r * r);
      of->root = from.template array<double>(r);
      of->inverse = from.template array<double>(r);
    }
    room.core = from.template array<double>(r * r);
    room.turn = from.template array<double>(r * r);
    room.by = from.template array<double>(r * r);
    room.values = from.template array<double>(r);
    room.image = from.template array<double>(r * r);
    room.rows = from.template array<float>(r * std::max(a, b));
    room.rest = from.bytes(symmetric_eigen_workspace_bytes(r));
    return room;
  }
};

Tensor square(double* at, std::int64_t r) {
  return {reinterpret_cast<std::byte*>(at), DType::f64, {r, r}};
}
Tensor list(double* at, std::int64_t r) {
  return {reinterpret_cast<std::byte*>(at), DType::f64, {r}};
}

/// C (r, r) = scale_i * x row i . y row j * scale_j; no scales: 1.
void products(double* C,
              const double* x,
              const double* y,
              std::int64_t r,
              const double* x_scale = nullptr,
              const double* y_scale = nullptr) {
  parallel_for(r, 1, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd([&] {
      for (std::int64_t i = begin; i < end; ++i) {
        for (std::int64_t j = 0; j < r; ++j) {
          const double sum = cpu::wide_dot(r, x + i * r, y + j * r);
          C[i * r + j] = (x_scale == nullptr ? sum : x_scale[i] * sum) *
                         (y_scale == nullptr ? 1.0 : y_scale[j]);
        }
      }
    });
  });
}

/// to (r, r) = x^T.
void transpose(double* to, const double* x, std::int64_t r) {
  for (std::int64_t i = 0; i < r; ++i) {
    for (std::int64_t j = 0; j < r; ++j) {
      to[j * r + i] = x[i * r + j];
    }
  }
}

void decompose(const Triangle& to,
               const float* rows,
               std::int64_t r,
               std::int64_t n,
               const Room& room,
               Stream& stream) {
  const Tensor matrix(reinterpret_cast<std::byte*>(const_cast<float*>(rows)), DType::f32, {r, n});
  const Tensor vectors = square(to.vectors, r);
  gram(vectors, matrix, stream);
  symmetric_eigen(list(room.values, r), vectors, vectors, room.rest, stream);
  for (std::int64_t i = 0; i < r; ++i) {
    const double root = std::sqrt(std::max(room.values[i], 0.0));
    to.root[i] = root;
    to.inverse[i] = root > 0.0 ? 1.0 / root : 0.0;
  }
}

/// Calls put(i, c, n, sums): sums of elements [c, c + n) of row i of by (r, r) * rows (r, n).
template <class Put>
void multiply(
    const double* by, const float* rows, std::int64_t r, std::int64_t numel, const Put& put) {
  parallel_for(numel, kColumns, [&](std::int64_t begin, std::int64_t end) {
    cpu::simd([&] {
      double sums[kColumns];
      for (std::int64_t c = begin; c < end; c += kColumns) {
        const std::int64_t n = std::min(kColumns, end - c);
        for (std::int64_t i = 0; i < r; ++i) {
          std::fill(sums, sums + n, 0.0);
          for (std::int64_t k = 0; k < r; ++k) {
            const double f = by[i * r + k];
            const float* const row = rows + k * numel + c;
            for (std::int64_t e = 0; e < n; ++e) {
              sums[e] += f * static_cast<double>(row[e]);
            }
          }
          put(i, c, n, sums);
        }
      }
    });
  });
}

/// rows (r, a) = left^T.
void turn_rows(float* rows, const float* left, std::int64_t a, std::int64_t r) {
  parallel_for(a, kColumns, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = 0; k < r; ++k) {
      for (std::int64_t i = begin; i < end; ++i) {
        rows[k * a + i] = left[i * r + k];
      }
    }
  });
}

}  // namespace

std::int64_t balance_factors_workspace_bytes(std::int64_t a, std::int64_t b, std::int64_t r) {
  cpu::ScratchSize size;
  Room::lay_out(size, a, b, r);
  return size.total_bytes();
}

void balance_factors(const Tensor& left,
                     const Tensor& right,
                     std::span<std::byte> workspace,
                     Stream& stream) {
  const std::int64_t a = left.shape()[0], r = left.shape()[1], b = right.shape()[1];
  STRATA_ASSERT(stream.lane() == Lane::compute && left.is_contiguous() && right.is_contiguous());
  STRATA_ASSERT(r > 0 && right.shape()[0] == r);
  cpu::Scratch scratch(workspace);
  const Room room = Room::lay_out(scratch, a, b, r);
  float* const left_values = left.data<float>();
  float* const right_values = right.data<float>();
  turn_rows(room.rows, left_values, a, r);
  decompose(room.left, room.rows, r, a, room, stream);
  decompose(room.right, right_values, r, b, room, stream);

  // left * right = Q^T core Q', Q and Q' the orthonormal rows of both.
  products(room.core, room.left.vectors, room.right.vectors, r, room.left.root, room.right.root);
  transpose(room.turn, room.core, r);
  products(room.by, room.turn, room.turn, r);
  symmetric_eigen(
      list(room.values, r), square(room.turn, r), square(room.by, r), room.rest, stream);
  // Rows of `image` are singular vectors times singular values, whose lengths are known better than
  // the roots of the eigenvalues.
  products(room.image, room.turn, room.core, r);
  cpu::simd([&] {
    for (std::int64_t i = 0; i < r; ++i) {
      const double* const row = room.image + i * r;
      room.values[i] = std::sqrt(cpu::wide_dot(r, row, row));
    }
  });
  for (std::int64_t i = 0; i < r; ++i) {
    const double root = std::sqrt(room.values[i]), inverse = root > 0.0 ? 1.0 / root : 0.0;
    for (std::int64_t j = 0; j < r; ++j) {
      room.image[i * r + j] *= inverse * room.left.inverse[j];
      room.turn[i * r + j] *= root * room.right.inverse[j];
    }
  }
  transpose(room.core, room.left.vectors, r);
  products(room.by, room.image, room.core, r);
  multiply(room.by,
           room.rows,
           r,
           a,
           [=](std::int64_t i, std::int64_t c, std::int64_t n, const double* sums) {
             for (std::int64_t e = 0; e < n; ++e) {
               left_values[(c + e) * r + i] = static_cast<float>(sums[e]);
             }
           });
  std::copy(right_values, right_values + r * b, room.rows);
  transpose(room.core, room.right.vectors, r);
  products(room.by, room.turn, room.core, r);
  multiply(room.by,
           room.rows,
           r,
           b,
           [=](std::int64_t i, std::int64_t c, std::int64_t n, const double* sums) {
             for (std::int64_t e = 0; e < n; ++e) {
               right_values[i * b + c + e] = static_cast<float>(sums[e]);
             }
           });
}

}  // namespace strata
