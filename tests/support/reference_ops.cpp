#include "tests/support/reference_ops.h"

#include <algorithm>
#include <cmath>

namespace strata::tests {

namespace {

using Index = std::size_t;

Index at(std::int64_t i) {
  return static_cast<Index>(i);
}

std::int64_t size(const Array& a) {
  return static_cast<std::int64_t>(a.size());
}

std::int32_t index_of(const Tensor& t, std::int64_t i) {
  return t.data<std::int32_t>()[i];
}

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

Array norm(const Arrays& in, std::int64_t C, double eps, bool centred) {
  const Array& x = in[0];
  Array y(x.size());
  for (std::int64_t row = 0; row < size(x); row += C) {
    double mean = 0, variance = 0;
    for (std::int64_t c = 0; c < C && centred; ++c) {
      mean += x[at(row + c)] / static_cast<double>(C);
    }
    for (std::int64_t c = 0; c < C; ++c) {
      variance += std::pow(x[at(row + c)] - mean, 2) / static_cast<double>(C);
    }
    for (std::int64_t c = 0; c < C; ++c) {
      y[at(row + c)] = (x[at(row + c)] - mean) / std::sqrt(variance + eps) * in[1][at(c)] +
                       (in.size() > 2 ? in[2][at(c)] : 0.0);
    }
  }
  return y;
}

}  // namespace

Reference embedding_reference(std::int64_t C) {
  return [C](const Arrays& in, const MicroBatch& batch) {
    Array y(at(batch.tokens.numel() * C));
    for (std::int64_t i = 0; i < size(y); ++i) {
      y[at(i)] = in[0][at(index_of(batch.tokens, i / C) * C + i % C)];
      if (in.size() > 1) {
        y[at(i)] += in[1][at(index_of(batch.positions, i / C) * C + i % C)];
      }
    }
    return Arrays{y};
  };
}

Reference add_positions_reference(std::int64_t C) {
  return [C](const Arrays& in, const MicroBatch& batch) {
    Array y = in[0];
    for (std::int64_t i = 0; i < size(y); ++i) {
      y[at(i)] += in[1][at(index_of(batch.positions, i / C) * C + i % C)];
    }
    return Arrays{y};
  };
}

Reference layer_norm_reference(std::int64_t C, double eps) {
  return [=](const Arrays& in, const MicroBatch&) { return Arrays{norm(in, C, eps, true)}; };
}

Reference rms_norm_reference(std::int64_t C, double eps) {
  return [=](const Arrays& in, const MicroBatch&) { return Arrays{norm(in, C, eps, false)}; };
}

Reference linear_reference(std::int64_t K, std::int64_t N, WeightLayout layout) {
  return [=](const Arrays& in, const MicroBatch&) {
    const std::int64_t M = size(in[0]) / K;
    Array y(at(M * N));
    for (std::int64_t m = 0; m < M; ++m) {
      for (std::int64_t n = 0; n < N; ++n) {
        double sum = in.size() > 2 ? in[2][at(n)] : 0.0;
        for (std::int64_t k = 0; k < K; ++k) {
          sum += in[0][at(m * K + k)] *
                 in[1][at(layout == WeightLayout::out_in ? n * K + k : k * N + n)];
        }
        y[at(m * N + n)] = sum;
      }
    }
    return Arrays{y};
  };
}

Reference rope_reference(std::int64_t heads, std::int64_t D, double theta, RopeStyle style) {
  return [=](const Arrays& in, const MicroBatch& batch) {
    const Array& x = in[0];
    Array y(x.size());
    for (std::int64_t head = 0; head < size(x) / D; ++head) {
      for (std::int64_t i = 0; i < D / 2; ++i) {
        const bool half = style == RopeStyle::half_split;
        const std::int64_t a = head * D + (half ? i : 2 * i), b = half ? a + D / 2 : a + 1;
        const double position = index_of(batch.positions, head / heads);
        const double angle =
            position * std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
        y[at(a)] = x[at(a)] * std::cos(angle) - x[at(b)] * std::sin(angle);
        y[at(b)] = x[at(b)] * std::cos(angle) + x[at(a)] * std::sin(angle);
      }
    }
    return Arrays{y};
  };
}

Reference attention_reference(
    std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t K, std::int64_t D) {
  return [=](const Arrays& in, const MicroBatch& batch) {
    const auto element = [=](std::int64_t heads, std::int64_t b, std::int64_t t, std::int64_t h) {
      return ((b * T + t) * heads + h) * D;
    };
    Array y(at(B * T * H * D), 0.0);
    for (std::int64_t i = 0; i < B * T * H; ++i) {
      const std::int64_t b = i / (T * H), t = i / H % T, h = i % H, kh = h / (H / K);
      const std::int64_t first = index_of(batch.documents, b * T + t);
      Array weights;
      double sum = 0;
      for (std::int64_t s = first; s <= t; ++s) {
        double score = 0;
        for (std::int64_t d = 0; d < D; ++d) {
          score += in[0][at(element(H, b, t, h) + d)] * in[1][at(element(K, b, s, kh) + d)];
        }
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(D))));
        sum += weights.back();
      }
      for (std::int64_t s = first; s <= t; ++s) {
        for (std::int64_t d = 0; d < D; ++d) {
          y[at(element(H, b, t, h) + d)] +=
              weights[at(s - first)] / sum * in[2][at(element(K, b, s, kh) + d)];
        }
      }
    }
    return Arrays{y};
  };
}

Reference gelu_tanh_reference() {
  return [](const Arrays& in, const MicroBatch&) {
    Array y;
    for (const double x : in[0]) {
      y.push_back(0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))));
    }
    return Arrays{y};
  };
}

Reference swiglu_reference() {
  return [](const Arrays& in, const MicroBatch&) {
    Array y;
    for (Index i = 0; i < in[0].size(); ++i) {
      y.push_back(in[0][i] * sigmoid(in[0][i]) * in[1][i]);
    }
    return Arrays{y};
  };
}

Reference sum_reference() {
  return [](const Arrays& in, const MicroBatch&) {
    Array y(in[0].size(), 0.0);
    for (const Array& x : in) {
      std::transform(y.begin(), y.end(), x.begin(), y.begin(), std::plus<>());
    }
    return Arrays{y};
  };
}

Reference cross_entropy_reference(std::int64_t V, std::int64_t C) {
  return [=](const Arrays& in, const MicroBatch& batch) {
    double nats = 0;
    for (std::int64_t r = 0; r < size(in[0]) / C; ++r) {
      const std::int32_t target = index_of(batch.targets, r);
      if (target == kMasked) {
        continue;
      }
      double sum = 0, target_logit = 0;
      for (std::int64_t v = 0; v < V; ++v) {
        double logit = 0;
        for (std::int64_t c = 0; c < C; ++c) {
          logit += in[0][at(r * C + c)] * in[1][at(v * C + c)];
        }
        sum += std::exp(logit);
        target_logit = v == target ? logit : target_logit;
      }
      nats += std::log(sum) - target_logit;
    }
    return Arrays{{nats}};
  };
}

}  // namespace strata::tests
