// GPT-2: learned positions, pre-norm, fused qkv, tanh GELU, tied head. Linears lie (in, out), as
// Conv1D of the original. Radford et al., Language models are unsupervised multitask learners,
// 2019. bias = false is nanoGPT's variant without biases.
#include <cmath>

#include "core/ops/activation.h"
#include "core/ops/attention.h"
#include "core/ops/norm.h"
#include "core/ops/residual.h"
#include "models/families.h"
#include "models/params.h"

namespace strata::models {
namespace {

class Embedding final : public Block {
 public:
  Embedding(const ModelConfig& config, ParamDeclarer& declare) : c_(config) {
    spec_.name = "embedding";
    declare.add(spec_, "transformer.wte.weight", Role::embed, {c_.V, c_.C}, table_init(c_));
    declare.add(spec_, "transformer.wpe.weight", Role::embed, {c_.max_T, c_.C}, {0.f, c_.init_std});
    if (c_.stable_embedding) {
      declare.add_layer_norm(spec_, "transformer.embedding_norm", c_);
    }
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "gpt2.embedding"; }
  Value build(Graph& graph, Value, std::span<const Value> params, bool) const override {
    ParamCursor p(params);
    const Value tokens = p.next();
    const Value positions = p.next();
    const Value x = embed(graph, tokens, positions, p, c_);
    return c_.dropout > 0 ? dropout(graph, x, c_.dropout) : x;
  }

 private:
  ModelConfig c_;
  BlockSpec spec_;
};

class Decoder final : public Block {
 public:
  Decoder(const ModelConfig& config, std::int64_t index, ParamDeclarer& declare) : c_(config) {
    spec_.name = "h." + std::to_string(index);
    const std::string prefix = "transformer." + spec_.name + ".";
    const float normal = c_.init_std;
    // Each block adds two branches to the residual stream: its variance stays that of the input.
    const float residual = c_.init_std / std::sqrt(2.f * static_cast<float>(c_.L));
    const auto affine = [&](const std::string& name, std::int64_t in, std::int64_t out, float std) {
      declare.add_linear(spec_, prefix + name, out, in, std, WeightLayout::in_out, c_);
    };
    declare.add_layer_norm(spec_, prefix + "ln_1", c_);
    affine("attn.c_attn", c_.C, 3 * c_.C, normal);
    affine("attn.c_proj", c_.C, c_.C, residual);
    declare.add_layer_norm(spec_, prefix + "ln_2", c_);
    affine("mlp.c_fc", c_.C, c_.F, normal);
    affine("mlp.c_proj", c_.F, c_.C, residual);
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "gpt2.decoder"; }

  Value build(Graph& graph, Value x, std::span<const Value> params, bool) const override {
    ParamCursor p(params);
    const auto norm = [&](Value v, std::string name) {
      const Value weight = p.next();
      const Value bias = p.next_if(c_.bias);
      return named(graph, layer_norm(graph, v, weight, bias, c_.norm_eps), std::move(name));
    };
    const auto affine = [&](Value v, const std::string& name) {
      return linear_layer(graph, v, p, WeightLayout::in_out, c_, name);
    };
    const std::int64_t widths[] = {c_.C, c_.C, c_.C};
    const std::vector<Value> qkv = split(graph, affine(norm(x, "norm1"), "qkv"), widths);
    const Value attended =
        named(graph, attention(graph, qkv[0], qkv[1], qkv[2], c_.H, c_.K), "attended");
    const Value projected = affine(attended, "projected");
    const Value weight = p.next();
    const Value bias = p.next_if(c_.bias);
    const auto [middle, normed2] =
        residual_layer_norm(graph, x, projected, c_.dropout, weight, bias, c_.norm_eps);
    named(graph, middle, "middle");
    const Value hidden = affine(named(graph, normed2, "norm2"), "hidden");
    const Value activated = named(graph, gelu_tanh(graph, hidden), "activated");
    return residual_dropout(graph, middle, affine(activated, "contracted"), c_.dropout);
  }

 private:
  ModelConfig c_;
  BlockSpec spec_;
};

class Head final : public Block {
 public:
  Head(const ModelConfig& config, ParamDeclarer& declare) : c_(config) {
    spec_.name = "head";
    declare.add_layer_norm(spec_, "transformer.ln_f", c_);
    declare_head_table(declare, spec_, c_);
  }
  const BlockSpec& spec() const override { return spec_; }
  std::string kind() const override { return "gpt2.head"; }

  Value build(Graph& graph,
              Value x,
              std::span<const Value> params,
              bool logits_only) const override {
    ParamCursor p(params);
    const Value weight = p.next();
    const Value bias = p.next_if(c_.bias);
    const Value normed = named(graph, layer_norm(graph, x, weight, bias, c_.norm_eps), "norm");
    return project(graph, normed, p.next(), logits_only);
  }

 private:
  ModelConfig c_;
  BlockSpec spec_;
};

}  // namespace

Blocks gpt2_blocks(const ModelConfig& config) {
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
