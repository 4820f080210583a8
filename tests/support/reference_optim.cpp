#include "tests/support/reference_optim.h"

#include <cmath>

namespace strata::tests {

void AdamWReference::step(std::span<double> w,
                          std::span<const double> g,
                          double lr,
                          std::int64_t t) {
  m.resize(w.size());
  v.resize(w.size());
  const double c1 = 1 - std::pow(beta1, static_cast<double>(t));
  const double c2 = 1 - std::pow(beta2, static_cast<double>(t));
  for (std::size_t i = 0; i < w.size(); ++i) {
    m[i] = beta1 * m[i] + (1 - beta1) * g[i];
    v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
    switch (family) {
      case Family::pytorch:
        w[i] = w[i] * (1 - lr * weight_decay);
        w[i] = w[i] - lr * (m[i] / c1) / (std::sqrt(v[i] / c2) + eps);
        break;
      case Family::bnb:
        w[i] = w[i] - lr * (m[i] / c1) / (std::sqrt(v[i] / c2) + eps);
        w[i] = w[i] * (1 - lr * weight_decay);
        break;
      case Family::hf:
        w[i] = w[i] - lr * std::sqrt(c2) / c1 * m[i] / (std::sqrt(v[i]) + eps);
        w[i] = w[i] - lr * weight_decay * w[i];
        break;
    }
  }
}

void SgdReference::step(std::span<double> w, std::span<const double> g, double lr, std::int64_t t) {
  b.resize(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) {
    double d = g[i];
    if (decoupled) {
      w[i] = w[i] * (1 - lr * weight_decay);
    } else {
      d = d + weight_decay * w[i];
    }
    if (momentum != 0) {
      b[i] = t == 1 ? d : momentum * b[i] + (1 - dampening) * d;
      d = nesterov ? d + momentum * b[i] : b[i];
    }
    w[i] = w[i] - lr * d;
  }
}

double relative_distance(std::span<const double> a, std::span<const double> b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

float Noise::next() {
  // xorshift64* (Vigna, 2016).
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  return static_cast<float>((state_ * 0x2545F4914F6CDD1Dull) >> 40) * 0x1p-23f - 1.f;
}

}  // namespace strata::tests
