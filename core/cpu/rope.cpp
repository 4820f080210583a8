#include "core/cpu/rope.h"

#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr std::int64_t kRows = 8;

/// One head: pairs (a[i], b[i]) at distance `step` turn by the angle whose cosine and sine are
/// given; sign -1 turns back.
template <class T>
inline void rotate(
    T* y, const T* x, const RopeTable& table, const float* row, float sign, bool add) {
  const std::int64_t half = table.D / 2;
  const float *cosine = row, *sine = row + half;
  if (table.style == RopeStyle::half_split) {
    put(y, half, add, [=](std::int64_t i) {
      return fma_(load(x[i]), cosine[i], -(load(x[half + i]) * (sign * sine[i])));
    });
    put(y + half, half, add, [=](std::int64_t i) {
      return fma_(load(x[half + i]), cosine[i], load(x[i]) * (sign * sine[i]));
    });
    return;
  }
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = load(x[2 * i]), b = load(x[2 * i + 1]), s = sign * sine[i];
    const float p = fma_(a, cosine[i], -(b * s)), q = fma_(b, cosine[i], a * s);
    store(y[2 * i], add ? load(y[2 * i]) + p : p);
    store(y[2 * i + 1], add ? load(y[2 * i + 1]) + q : q);
  }
}

void rotate_all(const Tensor& to,
                const Tensor& from,
                const Tensor& positions,
                const RopeTable& table,
                float sign,
                bool add) {
  const std::int64_t width = from.shape().back();
  const std::int32_t* const position = positions.data<std::int32_t>();
  visit_storage(from.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const y = to.data<T>();
    const T* const x = from.data<T>();
    parallel_for(positions.numel(), kRows, [&](std::int64_t begin, std::int64_t end) {
      simd([&] {
        for (std::int64_t r = begin; r < end; ++r) {
          const float* const row = table.values + position[r] * table.D;
          for (std::int64_t at = r * width; at < (r + 1) * width; at += table.D) {
            rotate(y + at, x + at, table, row, sign, add);
          }
        }
      });
    });
  });
}

}  // namespace

void rope_forward(const Tensor& y,
                  const Tensor& x,
                  const Tensor& positions,
                  const RopeTable& table) {
  rotate_all(y, x, positions, table, 1.f, false);
}

void rope_backward(const GradSink& dx,
                   const Tensor& dy,
                   const Tensor& positions,
                   const RopeTable& table) {
  rotate_all(dx.tensor, dy, positions, table, -1.f, dx.mode == Accumulate::add);
}

}  // namespace strata::cpu
