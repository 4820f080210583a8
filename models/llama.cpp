// The Llama family: RoPE, RMSNorm, grouped-query attention, SwiGLU, no biases. Linears lie
// (out, in). Touvron et al., LLaMA, 2023; Llama 2, 2023; Grattafiori et al., The Llama 3 herd of
// models, 2024; Jiang et al., Mistral 7B, 2023.
#include <cmath>

#include "core/ops/activation.h"
#include "core/ops/attention.h"
#include "core/ops/norm.h"
#include "core/ops/residual.h"
#include "core/ops/rope.h"
#include "models/families.h"
#include "models/params.h"

namespace strata::models {
namespace {

constexpr Init kOnes{1.f, 0.f};

class Embedding final : public Block {
 public:
  Embedding(const ModelConfig& config, ParamDeclarer& declare) : c_(config) {
    spec_.name = "embedding";
    declare.add(spec_, "model.embed_tokens.weight", Role::embed, {c_.V, c_.C}, table_init(c_));
    if (c_.stable_embedding) {
      declare.add_layer_norm(spec_, "model.embedding_norm", c_);
    }
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "llama.embedding"; }
  Value build(Graph& graph, Value, std::span<const Value> params, bool) const override {
    ParamCursor p(params);
    const Value tokens = p.next();
    const Value x = embed(graph, tokens, {}, p, c_);
    return c_.dropout > 0 ? dropout(graph, x, c_.dropout) : x;
  }

 private:
  ModelConfig c_;
  BlockSpec spec_;
};

class Decoder final : public Block {
 public:
  Decoder(const ModelConfig& config, std::int64_t index, ParamDeclarer& declare) : c_(config) {
    spec_.name = "layers." + std::to_string(index);
    const std::string prefix = "model." + spec_.name + ".";
    const float normal = c_.init_std;
    // Each block adds two branches to the residual stream: its variance stays that of the input.
    const float residual = c_.init_std / std::sqrt(2.f * static_cast<float>(c_.L));
    const auto matrix = [&](const std::string& name, std::int64_t out, std::int64_t in, float std) {
      declare.add_linear(spec_, prefix + name, out, in, std, WeightLayout::out_in, c_);
    };
    const auto norm = [&](const std::string& name) {
      declare.add(spec_, prefix + name + ".weight", Role::vector, {c_.C}, kOnes);
    };
    norm("input_layernorm");
    matrix("self_attn.q_proj", c_.H * c_.D, c_.C, normal);
    matrix("self_attn.k_proj", c_.K * c_.D, c_.C, normal);
    matrix("self_attn.v_proj", c_.K * c_.D, c_.C, normal);
    matrix("self_attn.o_proj", c_.C, c_.H * c_.D, residual);
    norm("post_attention_layernorm");
    matrix("mlp.gate_proj", c_.F, c_.C, normal);
    matrix("mlp.up_proj", c_.F, c_.C, normal);
    matrix("mlp.down_proj", c_.C, c_.F, residual);
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "llama.decoder"; }

  Value build(Graph& graph, Value x, std::span<const Value> params, bool) const override {
    ParamCursor p(params);
    const auto norm = [&](Value v, std::string name) {
      return named(graph, rms_norm(graph, v, p.next(), c_.norm_eps), std::move(name));
    };
    const auto project = [&](Value v, const std::string& name) {
      return linear_layer(graph, v, p, WeightLayout::out_in, c_, name);
    };
    const auto rotate = [&](Value v, std::string name) {
      return named(graph, rope(graph, v, c_.D, c_.rope_theta, c_.rope_style), std::move(name));
    };
    const Value normed1 = norm(x, "norm1");
    const Value q = rotate(project(normed1, "q"), "q_rotated");
    const Value k = rotate(project(normed1, "k"), "k_rotated");
    const Value v = project(normed1, "v");
    const Value attended = named(graph, attention(graph, q, k, v, c_.H, c_.K), "attended");
    const Value projected = project(attended, "projected");
    const auto [middle, normed2] =
        residual_rms_norm(graph, x, projected, c_.dropout, p.next(), c_.norm_eps);
    named(graph, middle, "middle");
    named(graph, normed2, "norm2");
    const Value gate = project(normed2, "gate");
    const Value up = project(normed2, "up");
    const Value gated = named(graph, swiglu(graph, gate, up), "gated");
    return residual_dropout(graph, middle, project(gated, "contracted"), c_.dropout);
  }

 private:
  ModelConfig c_;
  BlockSpec spec_;
};

class Head final : public Block {
 public:
  Head(const ModelConfig& config, ParamDeclarer& declare) : norm_eps_(config.norm_eps) {
    spec_.name = "head";
    declare.add(spec_, "model.norm.weight", Role::vector, {config.C}, kOnes);
    declare_head_table(declare, spec_, config);
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "llama.head"; }

  Value build(Graph& graph,
              Value x,
              std::span<const Value> params,
              bool logits_only) const override {
    ParamCursor p(params);
    const Value normed = named(graph, rms_norm(graph, x, p.next(), norm_eps_), "norm");
    return project(graph, normed, p.next(), logits_only);
  }

 private:
  BlockSpec spec_;
  float norm_eps_;
};

}  // namespace

Blocks llama_blocks(const ModelConfig& config) {
  ParamDeclarer declare;
  Blocks blocks;
  blocks.push_back(std::make_unique<Embedding>(config, declare));
  for (std::int64_t l = 0; l < config.L; ++l) {
    blocks.push_back(std::make_unique<Decoder>(config, l, declare));
  }
  blocks.push_back(std::make_unique<Head>(config, declare));
  return blocks;
}

}  // namespace strata::models
