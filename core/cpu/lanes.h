#pragma once
#include <cstdint>
#include <string>

#include "core/bf16.h"
#include "core/error.h"
#include "core/math.h"
#include "core/tensor.h"

namespace strata::cpu {

/// Independent partial sums of every reduction: one AVX-512 register, two AVX2, four SSE. Their
/// number, not the machine, fixes the order of addition.
inline constexpr int kLanes = 16;

inline float fold_lanes(float (&acc)[kLanes]) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) {
      acc[l] += acc[l + width];
    }
  }
  return acc[0];
}

/// Sum of term(i) over [0, n); inside a simd body.
template <class Term>
inline float lane_sum(std::int64_t n, const Term& term) {
  float acc[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      acc[l] += term(i + l);
    }
  }
  for (int l = 0; i + l < n; ++l) {
    acc[l] += term(i + l);
  }
  return fold_lanes(acc);
}

/// Largest of term(i) over [0, n), at least `low`; inside a simd body.
template <class Term>
inline float lane_max(std::int64_t n, float low, const Term& term) {
  float acc[kLanes];
  for (float& a : acc) {
    a = low;
  }
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) {
      const float t = term(i + l);
      acc[l] = t > acc[l] ? t : acc[l];
    }
  }
  for (int l = 0; i + l < n; ++l) {
    const float t = term(i + l);
    acc[l] = t > acc[l] ? t : acc[l];
  }
  float top = acc[0];
  for (int l = 1; l < kLanes; ++l) {
    top = acc[l] > top ? acc[l] : top;
  }
  return top;
}

/// Writes term(i) to to[i] for i in [0, n), or adds it to what is there; inside a simd body. An
/// overwritten element is never read: it may hold anything.
template <class T, class Term>
inline void put(T* to, std::int64_t n, bool add, const Term& term) {
  if (add) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      store(to[i], load(to[i]) + term(i));
    }
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      store(to[i], term(i));
    }
  }
}

/// Calls body(T{}) with the storage type of an activation: float or bf16.
template <class Body>
void visit_storage(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::bf16:
      return body(bf16{});
    default:
      throw Error(Errc::internal,
                  "kernel: activations are f32 or bf16, got " + std::string(to_string(dtype)));
  }
}

}  // namespace strata::cpu
