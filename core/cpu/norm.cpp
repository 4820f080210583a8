#include "core/cpu/norm.h"

#include <algorithm>
#include <cmath>

#include "core/cpu/lanes.h"
#include "core/cpu/rows.h"
#include "core/cpu/scratch.h"
#include "core/cpu/simd.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

constexpr std::int64_t kForwardRows = 16;

/// Layer norm is centred on the mean; RMS norm on zero.
enum class Centre : std::uint8_t { mean, zero };

template <Centre kCentre, class T>
struct Forward {
  T* y;
  float *mean, *rstd;
  const T *x, *weight, *bias;
  std::int64_t C;
  float eps;

  void row(std::int64_t r) const {
    const T* const in = x + r * C;
    const auto size = static_cast<float>(C);
    float m = 0.f;
    if constexpr (kCentre == Centre::mean) {
      m = lane_sum(C, [=](std::int64_t i) { return load(in[i]); }) / size;
      mean[r] = m;
    }
    const float variance = lane_sum(C,
                                    [=](std::int64_t i) {
                                      const float d = load(in[i]) - m;
                                      return d * d;
                                    }) /
                           size;
    const float s = 1.f / std::sqrt(variance + eps);
    rstd[r] = s;
    const T* const w = weight;
    const T* const b = bias;
    if (b != nullptr) {
      put(y + r * C, C, false, [=](std::int64_t i) {
        return fma_((load(in[i]) - m) * s, load(w[i]), load(b[i]));
      });
    } else {
      put(y + r * C, C, false, [=](std::int64_t i) { return (load(in[i]) - m) * s * load(w[i]); });
    }
  }
};

template <Centre kCentre, class T>
struct Backward {
  T* dx;
  bool add_dx;
  float *dweight, *dbias;  // partial sums (chunks, 2, C); dbias may be absent
  const T *dy, *x, *weight;
  const float *mean, *rstd;
  std::int64_t C;

  float mean_of(std::int64_t r) const {
    if constexpr (kCentre == Centre::mean) {
      return mean[r];
    }
    return 0.f;
  }

  void input_row(std::int64_t r) const {
    const T* const g = dy + r * C;
    const T* const in = x + r * C;
    const T* const w = weight;
    const float m = mean_of(r), s = rstd[r];
    const auto size = static_cast<float>(C);
    float g_mean = 0.f;
    if constexpr (kCentre == Centre::mean) {
      g_mean = lane_sum(C, [=](std::int64_t i) { return load(g[i]) * load(w[i]); }) / size;
    }
    const float gx_mean =
        lane_sum(
            C, [=](std::int64_t i) { return load(g[i]) * load(w[i]) * ((load(in[i]) - m) * s); }) /
        size;
    put(dx + r * C, C, add_dx, [=](std::int64_t i) {
      const float normed = (load(in[i]) - m) * s;
      return (fma_(load(g[i]), load(w[i]), -g_mean) - normed * gx_mean) * s;
    });
  }

  void param_row(std::int64_t chunk, std::int64_t r, bool add) const {
    const T* const g = dy + r * C;
    const T* const in = x + r * C;
    const float m = mean_of(r), s = rstd[r];
    put(dweight + chunk * 2 * C, C, add, [=](std::int64_t i) {
      return load(g[i]) * ((load(in[i]) - m) * s);
    });
    if (dbias != nullptr) {
      put(dbias + chunk * 2 * C, C, add, [=](std::int64_t i) { return load(g[i]); });
    }
  }
};

template <class Kernel>
void run_forward(const Kernel& kernel, std::int64_t rows) {
  parallel_for(rows, kForwardRows, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t r = begin; r < end; ++r) {
        kernel.row(r);
      }
    });
  });
}

template <class Kernel>
void run_backward(const Kernel& kernel, std::int64_t rows) {
  parallel_for(row_chunks(rows), 1, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t c = begin; c < end; ++c) {
        const std::int64_t first = c * kRowChunk;
        for (std::int64_t r = first; r < std::min(first + kRowChunk, rows); ++r) {
          if (kernel.dx != nullptr) {
            kernel.input_row(r);
          }
          if (kernel.dweight != nullptr) {
            kernel.param_row(c, r, r > first);
          }
        }
      }
    });
  });
}

template <Centre kCentre>
void backward(const GradSink& dx,
              const GradSink& dweight,
              const GradSink& dbias,
              const Tensor& dy,
              const Tensor& x,
              const Tensor& weight,
              const Tensor& mean,
              const Tensor& rstd,
              std::span<std::byte> scratch) {
  const std::int64_t C = x.shape().back(), rows = x.numel() / C;
  float* const partials = Scratch(scratch).array<float>(row_chunks(rows) * 2 * C);
  visit_storage(x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    run_backward(Backward<kCentre, T>{dx ? dx.tensor.data<T>() : nullptr,
                                      dx.mode == Accumulate::add,
                                      dweight || dbias ? partials : nullptr,
                                      dbias ? partials + C : nullptr,
                                      dy.data<T>(),
                                      x.data<T>(),
                                      weight.data<T>(),
                                      mean ? mean.data<float>() : nullptr,
                                      rstd.data<float>(),
                                      C},
                 rows);
  });
  if (dweight) {
    fold_partials(dweight, partials, row_chunks(rows), 2 * C, C);
  }
  if (dbias) {
    fold_partials(dbias, partials + C, row_chunks(rows), 2 * C, C);
  }
}

}  // namespace

void layer_norm_forward(const Tensor& y,
                        const Tensor& mean,
                        const Tensor& rstd,
                        const Tensor& x,
                        const Tensor& weight,
                        const Tensor& bias,
                        float eps) {
  const std::int64_t C = x.shape().back();
  visit_storage(x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    run_forward(Forward<Centre::mean, T>{y.data<T>(),
                                         mean.data<float>(),
                                         rstd.data<float>(),
                                         x.data<T>(),
                                         weight.data<T>(),
                                         bias ? bias.data<T>() : nullptr,
                                         C,
                                         eps},
                x.numel() / C);
  });
}

void layer_norm_backward(const GradSink& dx,
                         const GradSink& dweight,
                         const GradSink& dbias,
                         const Tensor& dy,
                         const Tensor& x,
                         const Tensor& weight,
                         const Tensor& mean,
                         const Tensor& rstd,
                         std::span<std::byte> scratch) {
  backward<Centre::mean>(dx, dweight, dbias, dy, x, weight, mean, rstd, scratch);
}

void rms_norm_forward(
    const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& weight, float eps) {
  const std::int64_t C = x.shape().back();
  visit_storage(x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    run_forward(Forward<Centre::zero, T>{y.data<T>(),
                                         nullptr,
                                         rstd.data<float>(),
                                         x.data<T>(),
                                         weight.data<T>(),
                                         nullptr,
                                         C,
                                         eps},
                x.numel() / C);
  });
}

void rms_norm_backward(const GradSink& dx,
                       const GradSink& dweight,
                       const Tensor& dy,
                       const Tensor& x,
                       const Tensor& weight,
                       const Tensor& rstd,
                       std::span<std::byte> scratch) {
  backward<Centre::zero>(dx, dweight, {}, dy, x, weight, {}, rstd, scratch);
}

std::int64_t norm_scratch_bytes(std::int64_t rows, std::int64_t C) {
  return aligned_bytes(row_chunks(rows) * 2 * C * size_bytes(DType::f32));
}

}  // namespace strata::cpu
