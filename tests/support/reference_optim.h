#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace strata::tests {

/// Float64 twins of the methods: scalar loops straight from the published equations, sharing
/// nothing with the rules they judge. `t` counts from 1.
struct AdamWReference {
  enum class Family : std::uint8_t { pytorch, bnb, hf };
  Family family = Family::pytorch;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;
  std::vector<double> m, v;
  void step(std::span<double> w, std::span<const double> g, double lr, std::int64_t t);
};

struct SgdReference {
  double momentum = 0.0, dampening = 0.0, weight_decay = 0.0;
  bool nesterov = false, decoupled = false;
  std::vector<double> b;
  void step(std::span<double> w, std::span<const double> g, double lr, std::int64_t t);
};

/// Euclidean norm of a - b over that of b.
double relative_distance(std::span<const double> a, std::span<const double> b);

/// Reproducible values in [-1, 1), spread over the interval.
class Noise {
 public:
  explicit Noise(std::uint64_t seed) : state_(seed) {}
  float next();

 private:
  std::uint64_t state_;
};

}  // namespace strata::tests
