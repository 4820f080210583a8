#pragma once
#include <cstdint>
#include <cstring>

namespace strata::cpu {

/// Eight doubles: one AVX-512 register, two AVX2, four SSE2, with the same sums on all of them.
/// Inside simd bodies only.
using Wide = double __attribute__((vector_size(64)));
using HalfWide = float __attribute__((vector_size(32)));
inline constexpr std::int64_t kWide = 8;

[[gnu::always_inline]] inline void load_wide(Wide& to, const double* from) {
  std::memcpy(&to, from, sizeof to);
}
[[gnu::always_inline]] inline void load_wide(Wide& to, const float* from) {
  HalfWide narrow;
  std::memcpy(&narrow, from, sizeof narrow);
  to = __builtin_convertvector(narrow, Wide);
}
[[gnu::always_inline]] inline void store_wide(double* to, const Wide& from) {
  std::memcpy(to, &from, sizeof from);
}
[[gnu::always_inline]] inline double fold_wide(const Wide& x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/// Sum of x[i] * y[i]; the order of addition is fixed by n.
template <class X, class Y>
[[gnu::always_inline]] inline double wide_dot(std::int64_t n, const X* x, const Y* y) {
  constexpr int kStrands = 4;
  Wide acc[kStrands] = {};
  std::int64_t i = 0;
  for (; i + kStrands * kWide <= n; i += kStrands * kWide) {
    for (int s = 0; s < kStrands; ++s) {
      Wide a, b;
      load_wide(a, x + i + s * kWide);
      load_wide(b, y + i + s * kWide);
      acc[s] += a * b;
    }
  }
  double rest = 0.0;
  for (; i < n; ++i) {
    rest += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  }
  return fold_wide((acc[0] + acc[1]) + (acc[2] + acc[3])) + rest;
}

}  // namespace strata::cpu
