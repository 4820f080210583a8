// Adam-mini: Adam with one second moment for each output row (or head) of a matrix, and for each
// row of an embedding. 4 bytes per parameter and 4 per row; norms and biases are plain Adam's.
//
//   v <- v + (1 - beta2)(mean of g^2 over the row - v)
//
// Zhang et al., Adam-mini: use fewer learning rates to gain more, ICLR 2025.
#include <algorithm>
#include <cmath>

#include "core/math.h"
#include "optim/composition.h"
#include "optim/matrix_shape.h"
#include "optim/rule.h"
#include "optim/squares.h"

namespace strata::optim {
namespace {

template <class T>
struct AdamMiniKernel {
  static constexpr int kMoments = 1;
  static constexpr bool kSharedSecond = true;
  T gain1, eps;
  STRATA_HD T operator()(T g, T, T& m, const T& v) const {
    m = fma_(gain1, g - m, m);
    return m / (std::sqrt(v) + eps);
  }
};

/// How many elements share a second moment, and which: the whole rows of the kept matrix, its
/// columns where those are the outputs, or nobody.
struct Sharing {
  std::int64_t rows = 1, columns = 1;
  bool by_column = false;
  explicit Sharing(const ParamInfo& param) {
    const MatrixShape shape(param);
    if (param.role == Role::vector) {
      rows = shape.numel();
    } else {
      rows = shape.rows, columns = shape.columns;
      by_column = param.output_axis == 1;
    }
  }
  std::int64_t groups() const { return by_column ? columns : rows; }
};

class AdamMini final : public Rule {
 public:
  struct Config {
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
    void fields(auto&& f) {
      f("beta1", beta1, "decay rate of the first moment");
      f("beta2", beta2, "decay rate of the second moments");
      f("eps", eps, "added to the root of the second moment");
    }
    void validate() const {
      require(beta1 >= 0 && beta1 < 1, "beta1", "0 <= beta1 < 1", beta1);
      require(beta2 >= 0 && beta2 < 1, "beta2", "0 <= beta2 < 1", beta2);
      require(eps >= 1e-30, "eps", "at least 1e-30", eps);
    }
  };
  explicit AdamMini(const Config& config) : config_(config) {}

  std::span<const Moment> moments() const override {
    static constexpr Moment kMoments[] = {{"m", false}};
    return kMoments;
  }
  void add_fields(const ParamInfo& param, StateLayout& layout) const override {
    const Sharing sharing(param);
    if (sharing.by_column) {
      layout.push_back({"v", DType::f32, Granularity::whole(), sharing.columns});
    } else {
      layout.push_back({"v", DType::f32, Granularity::blocks_of(sharing.columns), 1});
    }
  }
  Granularity granularity(const ParamInfo& param) const override {
    const Sharing sharing(param);
    return sharing.by_column ? Granularity::whole() : Granularity::blocks_of(sharing.columns);
  }
  bool elementwise() const override { return false; }
  double step_factor(std::int64_t t) const override {
    return root(t) / (1.0 - std::pow(config_.beta1, static_cast<double>(t)));
  }
  void run(const RuleStep& step, const RuleSlice& slice, RuleLoop<float>& loop) const override {
    run_as(step, slice, loop);
  }
  void run(const RuleStep& step, const RuleSlice& slice, RuleLoop<double>& loop) const override {
    run_as(step, slice, loop);
  }

 private:
  double root(std::int64_t t) const {
    return std::sqrt(1.0 - std::pow(config_.beta2, static_cast<double>(t)));
  }
  template <class T>
  void run_as(const RuleStep& step, const RuleSlice& slice, RuleLoop<T>& loop) const {
    const Sharing sharing(*slice.param);
    T* const v = (*slice.state)["v"].template data<T>();
    const auto gain2 = static_cast<T>(1.0 - config_.beta2);
    const auto enter = [&](std::int64_t group, double sum, std::int64_t count) {
      const auto mean = static_cast<T>(sum / static_cast<double>(count));
      v[group] = fma_(gain2, mean - v[group], v[group]);
    };
    sharing.by_column ? column_means(sharing, loop, enter) : row_means(sharing, loop, enter);
    const auto fill = [&](std::int64_t begin, std::int64_t n, T* to) {
      fill_second(sharing, v, begin, n, to);
    };
    loop.shared_second = std::ref(fill);
    loop.run(AdamMiniKernel<T>{.gain1 = static_cast<T>(1.0 - config_.beta1),
                               .eps = static_cast<T>(config_.eps * root(step.t))});
  }

  template <class T, class Enter>
  static void row_means(const Sharing& sharing, const RuleLoop<T>& loop, const Enter& enter) {
    const std::int64_t rows = loop.numel / sharing.columns;
    parallel_for(rows, 1 + kChunk / sharing.columns, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        double sum = 0.0;
        cpu::simd([&] {
          sum = sum_of_squares(loop.grad + row * sharing.columns, sharing.columns, loop.scale);
        });
        enter(row, sum, sharing.columns);
      }
    });
  }

  /// Columns are summed from the first row to the last, a strip of them at a time.
  template <class T, class Enter>
  static void column_means(const Sharing& sharing, const RuleLoop<T>& loop, const Enter& enter) {
    constexpr std::int64_t kStrip = 64;
    parallel_for(sharing.columns, kStrip, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t at = begin; at < end; at += kStrip) {
        const std::int64_t count = std::min(kStrip, end - at);
        double sums[kStrip] = {};
        cpu::simd([&] {
          for (std::int64_t row = 0; row < sharing.rows; ++row) {
            const T* const g = loop.grad + row * sharing.columns + at;
            for (std::int64_t i = 0; i < count; ++i) {
              const auto value = static_cast<double>(loop.scale * g[i]);
              sums[i] = fma_(value, value, sums[i]);
            }
          }
        });
        for (std::int64_t i = 0; i < count; ++i) {
          enter(at + i, sums[i], sharing.rows);
        }
      }
    });
  }

  template <class T>
  static void fill_second(
      const Sharing& sharing, const T* v, std::int64_t begin, std::int64_t n, T* to) {
    for (std::int64_t i = 0; i < n;) {
      const std::int64_t column = (begin + i) % sharing.columns;
      const std::int64_t count = std::min(n - i, sharing.columns - column);
      if (sharing.by_column) {
        std::copy(v + column, v + column + count, to + i);
      } else {
        std::fill(to + i, to + i + count, v[(begin + i) / sharing.columns]);
      }
      i += count;
    }
  }

  Config config_;
};

const RuleRegistrar<AdamMini> rule{"adam_mini"};
const Preset preset{"adam_mini", {{"rule", "adam_mini"}, {"weight_decay", "0.1"}}};

}  // namespace
}  // namespace strata::optim
