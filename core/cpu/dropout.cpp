#include "core/cpu/dropout.h"

#include <algorithm>

#include "core/cpu/lanes.h"
#include "core/cpu/rows.h"
#include "core/cpu/simd.h"
#include "core/for_each.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr std::int64_t kRows = 8;
constexpr std::int64_t kSpan = 256;  // channels whose mask exists at once

/// keep[c] = 0 or 1 / (1 - rate) for channels [begin, begin + kSpan) of a token row; `begin` is a
/// multiple of 4. Philox gives the words of four channels at once.
inline void fill_mask(
    float* keep, const Dropout& drop, std::int64_t row, std::int64_t C, std::int64_t begin) {
  const auto groups = static_cast<std::uint64_t>((C + 3) / 4);
  const auto place = static_cast<std::uint64_t>(drop.first_sample * drop.T + row);
  const std::uint64_t first = place * groups + static_cast<std::uint64_t>(begin / 4);
  const float rate = drop.rate, scale = 1.f / (1.f - drop.rate);
  const RandomKey key = drop.key;
  std::uint32_t words[4][kSpan / 4];
#pragma omp simd
  for (std::uint64_t g = 0; g < kSpan / 4; ++g) {
    const auto w = key.words(first + g);
    words[0][g] = w[0];
    words[1][g] = w[1];
    words[2][g] = w[2];
    words[3][g] = w[3];
  }
  for (std::int64_t g = 0; g < kSpan / 4; ++g) {
    for (std::int64_t j = 0; j < 4; ++j) {
      keep[4 * g + j] = uniform(words[j][g]) < rate ? 0.f : scale;
    }
  }
}

/// Calls span(at, n, keep) over all elements, at most kSpan at a time: keep[i] belongs to at + i.
template <class Span>
void for_each_span(const Shape& shape, const Dropout& drop, const Span& span) {
  const std::int64_t C = shape.back(), rows = shape.numel() / C;
  parallel_for(rows, kRows, [&](std::int64_t first, std::int64_t last) {
    simd([&] {
      float keep[kSpan];
      for (std::int64_t row = first; row < last; ++row) {
        for (std::int64_t begin = 0; begin < C; begin += kSpan) {
          fill_mask(keep, drop, row, C, begin);
          span(row * C + begin, std::min(kSpan, C - begin), keep);
        }
      }
    });
  });
}

template <class T>
void add_all(T* y, const T* x, const T* branch, std::int64_t n) {
  parallel_for(n, kChunk, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      put(y + begin, end - begin, false, [&](std::int64_t i) {
        return load(x[begin + i]) + load(branch[begin + i]);
      });
    });
  });
}

}  // namespace

void dropout_forward(const Tensor& y, const Tensor& x, const Tensor& branch, const Dropout& drop) {
  if (drop.rate == 0.f && !x) {
    return pass_gradient({y, Accumulate::overwrite}, branch);
  }
  visit_storage(y.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = y.data<T>();
    const T* const b = branch.data<T>();
    const T* const a = x ? x.data<T>() : nullptr;
    if (drop.rate == 0.f) {
      return add_all(to, a, b, y.numel());
    }
    for_each_span(y.shape(), drop, [=](std::int64_t at, std::int64_t n, const float* keep) {
      if (a != nullptr) {
        put(to + at, n, false, [=](std::int64_t i) {
          return fma_(load(b[at + i]), keep[i], load(a[at + i]));
        });
      } else {
        put(to + at, n, false, [=](std::int64_t i) { return load(b[at + i]) * keep[i]; });
      }
    });
  });
}

void dropout_backward(const GradSink& dbranch, const Tensor& dy, const Dropout& drop) {
  if (drop.rate == 0.f) {
    return pass_gradient(dbranch, dy);
  }
  const bool add = dbranch.mode == Accumulate::add;
  visit_storage(dy.dtype(), [&](auto storage) {
    using T = decltype(storage);
    T* const to = dbranch.tensor.data<T>();
    const T* const g = dy.data<T>();
    for_each_span(dy.shape(), drop, [=](std::int64_t at, std::int64_t n, const float* keep) {
      put(to + at, n, add, [=](std::int64_t i) { return load(g[at + i]) * keep[i]; });
    });
  });
}

}  // namespace strata::cpu
