#include "core/cpu/activation.h"

#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/for_each.h"
#include "core/math.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr float kSqrt2OverPi = 0.797884561f, kCubic = 0.044715f;

inline float gelu_tanh(float x) {
  const float t = tanh_(kSqrt2OverPi * fma_(kCubic * x * x, x, x));
  return 0.5f * x * (1.f + t);
}

inline float gelu_tanh_derivative(float x) {
  const float t = tanh_(kSqrt2OverPi * fma_(kCubic * x * x, x, x));
  const float inner = kSqrt2OverPi * fma_(3.f * kCubic * x, x, 1.f);
  return fma_(0.5f * x * fma_(-t, t, 1.f), inner, 0.5f * (1.f + t));
}

inline float sigmoid(float x) {
  return 1.f / (1.f + exp_(-x));
}

/// to[i] = term(i) on all threads, for i in [0, to.numel()).
template <class T, class Term>
void put_all(const Tensor& to, Accumulate mode, const Term& term) {
  T* const out = to.data<T>();
  parallel_for(to.numel(), kChunk, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      put(out + begin, end - begin, mode == Accumulate::add, [&](std::int64_t i) {
        return term(begin + i);
      });
    });
  });
}

}  // namespace

void gelu_tanh_forward(const Tensor& y, const Tensor& x) {
  visit_storage(x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    const T* const in = x.data<T>();
    put_all<T>(y, Accumulate::overwrite, [=](std::int64_t i) { return gelu_tanh(load(in[i])); });
  });
}

void gelu_tanh_backward(const GradSink& dx, const Tensor& dy, const Tensor& x) {
  visit_storage(x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    const T *const in = x.data<T>(), *const g = dy.data<T>();
    put_all<T>(dx.tensor, dx.mode, [=](std::int64_t i) {
      return load(g[i]) * gelu_tanh_derivative(load(in[i]));
    });
  });
}

void swiglu_forward(const Tensor& y, const Tensor& gate, const Tensor& up) {
  visit_storage(y.dtype(), [&](auto storage) {
    using T = decltype(storage);
    const T *const a = gate.data<T>(), *const b = up.data<T>();
    put_all<T>(y, Accumulate::overwrite, [=](std::int64_t i) {
      const float x = load(a[i]);
      return x * sigmoid(x) * load(b[i]);
    });
  });
}

void swiglu_backward(const GradSink& dgate,
                     const GradSink& dup,
                     const Tensor& dy,
                     const Tensor& gate,
                     const Tensor& up) {
  visit_storage(dy.dtype(), [&](auto storage) {
    using T = decltype(storage);
    const T *const a = gate.data<T>(), *const b = up.data<T>(), *const g = dy.data<T>();
    if (dgate) {
      put_all<T>(dgate.tensor, dgate.mode, [=](std::int64_t i) {
        const float x = load(a[i]), s = sigmoid(x);
        return load(g[i]) * load(b[i]) * (s * fma_(x, 1.f - s, 1.f));
      });
    }
    if (dup) {
      put_all<T>(dup.tensor, dup.mode, [=](std::int64_t i) {
        const float x = load(a[i]);
        return load(g[i]) * (x * sigmoid(x));
      });
    }
  });
}

}  // namespace strata::cpu
