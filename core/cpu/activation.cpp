#include "core/cpu/activation.h"

#include <algorithm>

#include "core/cpu/lanes.h"
#include "core/cpu/simd.h"
#include "core/for_each.h"
#include "core/math.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr std::int64_t kSpan = 256;  // elements whose sigmoid is kept for a second use

/// 1 / (1 + e^-x). The bound keeps e^-x a number that exp_softmax knows; beyond it the result is 0
/// to 34 digits.
inline float sigmoid(float x) {
  constexpr float kMost = 80.f;
  return 1.f / (1.f + exp_softmax(x > -kMost ? -x : kMost));
}

// 1/2 (1 + tanh(u)) = sigmoid(2 u): one exponential and one division.
constexpr float kTwoSqrt2OverPi = 1.595769122f, kCubic = 0.044715f;

inline float gelu_share(float x) {
  return sigmoid(kTwoSqrt2OverPi * fma_(kCubic * x * x, x, x));
}

inline float gelu_tanh(float x) {
  return x * gelu_share(x);
}

inline float gelu_tanh_derivative(float x) {
  const float s = gelu_share(x);
  const float inner = kTwoSqrt2OverPi * fma_(3.f * kCubic * x, x, 1.f);
  return fma_(x * s * (1.f - s), inner, s);
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

/// Both gradients of swiglu in one pass: the exponential is what costs.
template <class T, class Gate, class Up>
void put_both(const GradSink& dgate,
              const GradSink& dup,
              const T* gate,
              const Gate& gate_term,
              const Up& up_term) {
  T* const to_gate = dgate.tensor.data<T>();
  T* const to_up = dup.tensor.data<T>();
  const bool add_gate = dgate.mode == Accumulate::add, add_up = dup.mode == Accumulate::add;
  parallel_for(dgate.tensor.numel(), kChunk, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      float share[kSpan];
      for (std::int64_t at = begin; at < end; at += kSpan) {
        const std::int64_t n = std::min(kSpan, end - at);
        put(share, n, false, [&](std::int64_t i) { return sigmoid(load(gate[at + i])); });
        put(to_gate + at, n, add_gate, [&](std::int64_t i) {
          return gate_term(load(gate[at + i]), share[i], at + i);
        });
        put(to_up + at, n, add_up, [&](std::int64_t i) {
          return up_term(load(gate[at + i]), share[i], at + i);
        });
      }
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
    const auto gate_term = [=](float x, float s, std::int64_t i) {
      return load(g[i]) * load(b[i]) * (s * fma_(x, 1.f - s, 1.f));
    };
    const auto up_term = [=](float x, float s, std::int64_t i) { return load(g[i]) * (x * s); };
    if (dgate && dup) {
      return put_both(dgate, dup, a, gate_term, up_term);
    }
    const auto put_one = [&](const GradSink& sink, const auto& term) {
      put_all<T>(sink.tensor, sink.mode, [=](std::int64_t i) {
        const float x = load(a[i]);
        return term(x, sigmoid(x), i);
      });
    };
    if (dgate) {
      put_one(dgate, gate_term);
    }
    if (dup) {
      put_one(dup, up_term);
    }
  });
}

}  // namespace strata::cpu
