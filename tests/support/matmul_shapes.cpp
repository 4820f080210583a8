#include "tests/support/matmul_shapes.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "core/ops/loss.h"

namespace strata::tests {

namespace {

struct Preset {
  const char* name;
  std::int64_t C, F, H, K, V;
  bool gated;  // Llama: weights (out, in), gate and up; else GPT-2: weights (in, out)
};
constexpr Preset kPresets[] = {{"gpt2-124m", 768, 3072, 12, 12, 50257, false},
                               {"gpt2-350m", 1024, 4096, 16, 16, 50257, false},
                               {"gpt2-774m", 1280, 5120, 20, 20, 50257, false},
                               {"gpt2-1.5b", 1600, 6400, 25, 25, 50257, false},
                               {"llama-1b", 2048, 5632, 32, 4, 32000, true},
                               {"llama-7b", 4096, 11008, 32, 32, 32000, true},
                               {"llama-8b", 4096, 14336, 32, 8, 128256, true},
                               {"tiny-llama", 128, 344, 4, 2, 256, true},
                               {"tiny-gpt2", 128, 512, 4, 4, 256, false}};

class Collector {
 public:
  explicit Collector(std::int64_t width) : width_(width) {}

  void add(std::string name, std::int64_t m, std::int64_t n, std::int64_t k, MatmulForm form) {
    m = std::min(m, width_);
    n = std::min(n, width_);
    if (seen_.insert({m, n, k, form}).second) {
      const bool bias = form == MatmulForm::ab && name.ends_with(" forward");  // GPT-2's
      products.push_back({std::move(name), {.m = m, .n = n, .k = k, .form = form, .bias = bias}});
    }
  }

  /// y (T, out) = x (T, in) W, with W as (out, in) or (in, out).
  void add_layer(
      const std::string& name, std::int64_t in, std::int64_t out, std::int64_t T, bool out_in) {
    using enum MatmulForm;
    add(name + " forward", T, out, in, out_in ? abt : ab);
    add(name + " dx", T, in, out, out_in ? ab : abt);
    if (out_in) {
      add(name + " dW", out, in, T, atb);
    } else {
      add(name + " dW", in, out, T, atb);
    }
  }

  std::vector<StepProduct> products;

 private:
  std::int64_t width_;
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t, MatmulForm>> seen_;
};

}  // namespace

std::vector<StepProduct> step_products(std::int64_t tokens, std::int64_t width) {
  Collector all(width);
  for (const Preset& p : kPresets) {
    const std::string name = p.name;
    const std::int64_t kv = p.C / p.H * p.K;
    all.add_layer(name + " qkv", p.C, p.C + 2 * kv, tokens, p.gated);
    all.add_layer(name + " proj", p.C, p.C, tokens, p.gated);
    all.add_layer(name + " up", p.C, p.F, tokens, p.gated);
    all.add_layer(name + " down", p.F, p.C, tokens, p.gated);
    if (p.gated) {
      all.add_layer(name + " k", p.C, kv, tokens, true);
      all.add_layer(name + " gate up", p.C, 2 * p.F, tokens, true);
    }
    const std::int64_t rows = std::min(tokens, kLossRows);
    all.add_layer(name + " head", p.C, std::min(p.V, kLossColumns), rows, true);
    if (p.V > kLossColumns && p.V % kLossColumns != 0) {
      all.add_layer(name + " head's rest", p.C, p.V % kLossColumns, rows, true);
    }
  }
  return std::move(all.products);
}

Tensor random_values(DType dtype, std::int64_t numel, std::uint64_t seed) {
  Tensor t = Tensor::zeros(dtype, {numel});
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;  // xorshift: Philox would take longer
  for (std::int64_t i = 0; i < numel; ++i) {               // than the products
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const float x = static_cast<float>(static_cast<std::int32_t>(state >> 32)) * 0x1p-31f;
    if (dtype == DType::f32) {
      t.data<float>()[i] = x;
    } else {
      t.data<bf16>()[i] = to_bf16(x);
    }
  }
  return t;
}

}  // namespace strata::tests
