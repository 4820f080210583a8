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

/// A row of the result from its mean and 1 / std; in here alone, so that a redo gives the same
/// bits.
template <class T>
inline void put_normed(
    T* y, const T* in, float m, float s, const T* w, const T* b, std::int64_t C) {
  if (b != nullptr) {
    put(y, C, false, [=](std::int64_t i) {
      return fma_((load(in[i]) - m) * s, load(w[i]), load(b[i]));
    });
  } else {
    put(y, C, false, [=](std::int64_t i) { return (load(in[i]) - m) * s * load(w[i]); });
  }
}

template <Centre kCentre, class T>
struct Forward {
  T *y, *sum;
  float *mean, *rstd;
  const T *x, *branch, *weight, *bias;
  std::int64_t C;
  float eps;

  /// The row that is normed: of x, or of the sum, as it is stored.
  const T* input_row(std::int64_t r) const {
    if (branch == nullptr) {
      return x + r * C;
    }
    const T *const a = x + r * C, *const b = branch + r * C;
    put(sum + r * C, C, false, [=](std::int64_t i) { return load(a[i]) + load(b[i]); });
    return sum + r * C;
  }

  void row(std::int64_t r) const {
    const T* const in = input_row(r);
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
    put_normed(y + r * C, in, m, s, weight, bias, C);
  }
};

template <Centre kCentre, class T>
struct Redo {
  T* y;
  const T *x, *weight, *bias;
  const float *mean, *rstd;
  std::int64_t C;

  void row(std::int64_t r) const {
    const float m = kCentre == Centre::mean ? mean[r] : 0.f;
    put_normed(y + r * C, x + r * C, m, rstd[r], weight, bias, C);
  }
};

template <Centre kCentre, class T>
struct Backward {
  T *dx, *dbranch;
  bool add_dx, add_dbranch;
  float *dweight, *dbias;  // partial sums (chunks, 2, C); dbias may be absent
  const T *dy, *dsum, *x, *weight;
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
    const auto through = [=](std::int64_t i) {
      const float normed = (load(in[i]) - m) * s;
      return (fma_(load(g[i]), load(w[i]), -g_mean) - normed * gx_mean) * s;
    };
    if (dsum == nullptr) {
      return put_row(r, through);
    }
    const T* const direct = dsum + r * C;
    put_row(r, [=](std::int64_t i) {
      T total;  // rounded as the gradient of a stored sum is
      store(total, load(direct[i]) + through(i));
      return load(total);
    });
  }

  template <class Term>
  void put_row(std::int64_t r, const Term& term) const {
    if (dx != nullptr) {
      put(dx + r * C, C, add_dx, term);
    }
    if (dbranch != nullptr) {
      put(dbranch + r * C, C, add_dbranch, term);
    }
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
          if (kernel.dx != nullptr || kernel.dbranch != nullptr) {
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

template <class T>
T* data_of(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

template <Centre kCentre, class T>
void forward_of(const NormOutput& out,
                const NormInput& in,
                const Tensor& weight,
                const Tensor& bias,
                float eps) {
  const std::int64_t C = in.x.shape().back();
  run_forward(Forward<kCentre, T>{out.y.data<T>(),
                                  data_of<T>(in.sum),
                                  data_of<float>(out.mean),
                                  out.rstd.data<float>(),
                                  in.x.data<T>(),
                                  data_of<T>(in.branch),
                                  weight.data<T>(),
                                  data_of<T>(bias),
                                  C,
                                  eps},
              in.x.numel() / C);
}

template <Centre kCentre, class T>
void backward_of(const NormGradients& to,
                 const Tensor& dy,
                 const Tensor& dsum,
                 const NormSaved& saved,
                 float* partials) {
  const std::int64_t C = saved.x.shape().back();
  run_backward(Backward<kCentre, T>{data_of<T>(to.dx.tensor),
                                    data_of<T>(to.dbranch.tensor),
                                    to.dx.mode == Accumulate::add,
                                    to.dbranch.mode == Accumulate::add,
                                    to.dweight || to.dbias ? partials : nullptr,
                                    to.dbias ? partials + C : nullptr,
                                    dy.data<T>(),
                                    data_of<T>(dsum),
                                    saved.x.data<T>(),
                                    saved.weight.data<T>(),
                                    data_of<float>(saved.mean),
                                    saved.rstd.data<float>(),
                                    C},
               saved.x.numel() / C);
}

template <Centre kCentre, class T>
void redo_of(const Tensor& y, const NormSaved& saved, const Tensor& bias) {
  const std::int64_t C = saved.x.shape().back();
  run_forward(Redo<kCentre, T>{y.data<T>(),
                               saved.x.data<T>(),
                               saved.weight.data<T>(),
                               data_of<T>(bias),
                               data_of<float>(saved.mean),
                               saved.rstd.data<float>(),
                               C},
              saved.x.numel() / C);
}

}  // namespace

void norm_forward(const NormOutput& out,
                  const NormInput& in,
                  const Tensor& weight,
                  const Tensor& bias,
                  float eps) {
  visit_storage(in.x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    if (out.mean) {
      forward_of<Centre::mean, T>(out, in, weight, bias, eps);
    } else {
      forward_of<Centre::zero, T>(out, in, weight, bias, eps);
    }
  });
}

void norm_backward(const NormGradients& to,
                   const Tensor& dy,
                   const Tensor& dsum,
                   const NormSaved& saved,
                   std::span<std::byte> scratch) {
  const std::int64_t C = saved.x.shape().back(), rows = saved.x.numel() / C;
  float* const partials = Scratch(scratch).array<float>(row_chunks(rows) * 2 * C);
  visit_storage(saved.x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    if (saved.mean) {
      backward_of<Centre::mean, T>(to, dy, dsum, saved, partials);
    } else {
      backward_of<Centre::zero, T>(to, dy, dsum, saved, partials);
    }
  });
  if (to.dweight) {
    fold_partials(to.dweight, partials, row_chunks(rows), 2 * C, C);
  }
  if (to.dbias) {
    fold_partials(to.dbias, partials + C, row_chunks(rows), 2 * C, C);
  }
}

void norm_redo(const Tensor& y, const NormSaved& saved, const Tensor& bias) {
  visit_storage(saved.x.dtype(), [&](auto storage) {
    using T = decltype(storage);
    if (saved.mean) {
      redo_of<Centre::mean, T>(y, saved, bias);
    } else {
      redo_of<Centre::zero, T>(y, saved, bias);
    }
  });
}

std::int64_t norm_scratch_bytes(std::int64_t rows, std::int64_t C) {
  return aligned_bytes(row_chunks(rows) * 2 * C * size_bytes(DType::f32));
}

}  // namespace strata::cpu
