#include "tests/support/reference_model.h"

#include <cmath>
#include <numbers>

namespace strata::tests {
namespace {

using models::Family;
using models::ModelConfig;
using Vector = std::vector<double>;

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

/// One forward pass; x is (N, width) with N = B * T rows.
struct Forward {
  const ModelConfig& c;
  const ReferenceParams& params;
  const MicroBatch& batch;
  std::int64_t B = batch.tokens.shape()[0], T = batch.tokens.shape()[1], N = B * T;

  static std::int64_t index(const Tensor& t, std::int64_t row) {
    return t.data<std::int32_t>()[row];
  }
  const Vector& param(const std::string& name) const { return params.at(name); }

  Vector linear(const Vector& x, const std::string& name, std::int64_t in, std::int64_t out) const {
    if (c.factor_rank == 0) {
      return affine(x, name, name, in, out);
    }
    const Vector low = affine(x, name + ".a", "", in, c.factor_rank);
    return affine(low, name + ".b", name, c.factor_rank, out);
  }

  Vector affine(const Vector& x,
                const std::string& name,
                const std::string& bias_of,
                std::int64_t in,
                std::int64_t out) const {
    const bool in_out = c.family == Family::gpt2;
    const Vector& w = param(name + ".weight");
    const auto bias = params.find(bias_of + ".bias");
    Vector y(at(N * out));
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t o = 0; o < out; ++o) {
        double sum = bias == params.end() ? 0.0 : bias->second[at(o)];
        for (std::int64_t i = 0; i < in; ++i) {
          sum += x[at(n * in + i)] * w[at(in_out ? i * out + o : o * in + i)];
        }
        y[at(n * out + o)] = sum;
      }
    }
    return y;
  }

  Vector norm(const Vector& x, const std::string& name) const {
    return norm(x, name, c.family == Family::gpt2);
  }

  Vector norm(const Vector& x, const std::string& name, bool centred) const {
    const Vector& w = param(name + ".weight");
    const auto bias = params.find(name + ".bias");
    Vector y(x.size());
    for (std::int64_t n = 0; n < N; ++n) {
      double mean = 0, square = 0;
      for (std::int64_t i = 0; i < c.C; ++i) {
        mean += centred ? x[at(n * c.C + i)] / static_cast<double>(c.C) : 0.0;
      }
      for (std::int64_t i = 0; i < c.C; ++i) {
        square += std::pow(x[at(n * c.C + i)] - mean, 2) / static_cast<double>(c.C);
      }
      for (std::int64_t i = 0; i < c.C; ++i) {
        const double scaled = (x[at(n * c.C + i)] - mean) / std::sqrt(square + c.norm_eps);
        y[at(n * c.C + i)] = scaled * w[at(i)] + (bias == params.end() ? 0.0 : bias->second[at(i)]);
      }
    }
    return y;
  }

  void rotate(Vector& x, std::int64_t heads) const {
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < c.D / 2; ++i) {
          const double angle =
              static_cast<double>(index(batch.positions, n)) *
              std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.D));
          const bool half = c.rope_style == RopeStyle::half_split;
          const std::int64_t head = (n * heads + h) * c.D;
          double& a = x[at(head + (half ? i : 2 * i))];
          double& b = x[at(head + (half ? i + c.D / 2 : 2 * i + 1))];
          const double a0 = a, b0 = b;
          a = a0 * std::cos(angle) - b0 * std::sin(angle);
          b = a0 * std::sin(angle) + b0 * std::cos(angle);
        }
      }
    }
  }

  Vector attention(const Vector& q, const Vector& k, const Vector& v) const {
    Vector y(at(N * c.H * c.D), 0.0);
    for (std::int64_t n = 0; n < N; ++n) {
      const std::int64_t row = n / T * T;
      const std::int64_t first = row + index(batch.documents, n);
      for (std::int64_t h = 0; h < c.H; ++h) {
        const std::int64_t kv = h / (c.H / c.K);
        Vector weight;
        double sum = 0;
        for (std::int64_t s = first; s <= n; ++s) {
          double score = 0;
          for (std::int64_t d = 0; d < c.D; ++d) {
            score += q[at((n * c.H + h) * c.D + d)] * k[at((s * c.K + kv) * c.D + d)];
          }
          weight.push_back(std::exp(score / std::sqrt(static_cast<double>(c.D))));
          sum += weight.back();
        }
        for (std::int64_t s = first; s <= n; ++s) {
          for (std::int64_t d = 0; d < c.D; ++d) {
            y[at((n * c.H + h) * c.D + d)] +=
                weight[at(s - first)] / sum * v[at((s * c.K + kv) * c.D + d)];
          }
        }
      }
    }
    return y;
  }

  static void add(Vector& x, const Vector& branch) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] += branch[i];
    }
  }

  void gpt2_block(Vector& x, const std::string& name) const {
    const Vector qkv = linear(norm(x, name + "ln_1"), name + "attn.c_attn", c.C, 3 * c.C);
    Vector q(x.size()), k(x.size()), v(x.size());
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t i = 0; i < c.C; ++i) {
        q[at(n * c.C + i)] = qkv[at(n * 3 * c.C + i)];
        k[at(n * c.C + i)] = qkv[at(n * 3 * c.C + c.C + i)];
        v[at(n * c.C + i)] = qkv[at(n * 3 * c.C + 2 * c.C + i)];
      }
    }
    add(x, linear(attention(q, k, v), name + "attn.c_proj", c.C, c.C));
    Vector hidden = linear(norm(x, name + "ln_2"), name + "mlp.c_fc", c.C, c.F);
    for (double& a : hidden) {
      a *= 0.5 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (a + 0.044715 * a * a * a)));
    }
    add(x, linear(hidden, name + "mlp.c_proj", c.F, c.C));
  }

  void llama_block(Vector& x, const std::string& name) const {
    const Vector normed = norm(x, name + "input_layernorm");
    const std::string attn = name + "self_attn.", mlp = name + "mlp.";
    Vector q = linear(normed, attn + "q_proj", c.C, c.H * c.D);
    Vector k = linear(normed, attn + "k_proj", c.C, c.K * c.D);
    const Vector v = linear(normed, attn + "v_proj", c.C, c.K * c.D);
    rotate(q, c.H);
    rotate(k, c.K);
    add(x, linear(attention(q, k, v), attn + "o_proj", c.H * c.D, c.C));
    const Vector normed2 = norm(x, name + "post_attention_layernorm");
    Vector gate = linear(normed2, mlp + "gate_proj", c.C, c.F);
    const Vector up = linear(normed2, mlp + "up_proj", c.C, c.F);
    for (std::size_t i = 0; i < gate.size(); ++i) {
      gate[i] *= up[i] / (1 + std::exp(-gate[i]));
    }
    add(x, linear(gate, mlp + "down_proj", c.F, c.C));
  }

  Vector logits() const {
    const bool gpt2 = c.family == Family::gpt2;
    const std::string table = gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
    Vector x(at(N * c.C));
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t i = 0; i < c.C; ++i) {
        x[at(n * c.C + i)] = param(table)[at(index(batch.tokens, n) * c.C + i)];
      }
    }
    if (c.stable_embedding) {
      x = norm(x, gpt2 ? "transformer.embedding_norm" : "model.embedding_norm", true);
    }
    for (std::int64_t i = 0; gpt2 && i < N * c.C; ++i) {
      x[at(i)] +=
          param("transformer.wpe.weight")[at(index(batch.positions, i / c.C) * c.C + i % c.C)];
    }
    for (std::int64_t l = 0; l < c.L; ++l) {
      if (gpt2) {
        gpt2_block(x, "transformer.h." + std::to_string(l) + ".");
      } else {
        llama_block(x, "model.layers." + std::to_string(l) + ".");
      }
    }
    x = norm(x, gpt2 ? "transformer.ln_f" : "model.norm");
    const Vector& head = param(c.tied ? table : "lm_head.weight");
    Vector y(at(N * c.V), 0.0);
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t o = 0; o < c.V; ++o) {
        for (std::int64_t i = 0; i < c.C; ++i) {
          y[at(n * c.V + o)] += x[at(n * c.C + i)] * head[at(o * c.C + i)];
        }
      }
    }
    return y;
  }
};

}  // namespace

Vector reference_logits(const ModelConfig& config,
                        const ReferenceParams& params,
                        const MicroBatch& batch) {
  return Forward{config, params, batch}.logits();
}

double reference_loss_sum(const ModelConfig& config,
                          const ReferenceParams& params,
                          const MicroBatch& batch) {
  const Vector logits = reference_logits(config, params, batch);
  double loss = 0;
  for (std::int64_t n = 0; n < batch.targets.numel(); ++n) {
    const std::int32_t target = batch.targets.data<std::int32_t>()[n];
    if (target == kMasked) {
      continue;
    }
    double sum = 0;
    for (std::int64_t o = 0; o < config.V; ++o) {
      sum += std::exp(logits[at(n * config.V + o)]);
    }
    loss += std::log(sum) - logits[at(n * config.V + target)];
  }
  return loss;
}

}  // namespace strata::tests
