#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/ops/rope.h"
#include "core/tensor.h"

namespace strata::models {

enum class Family : std::uint8_t { gpt2, llama };

/// A decoder-only model. Letters as everywhere: see models/README.md.
struct ModelConfig {
  Family family = Family::gpt2;
  std::int64_t L = 0, C = 0, H = 0, K = 0, D = 0, F = 0, V = 0;
  std::int64_t max_T = 0;  // positions trained for; GPT-2: rows of the position table
  bool tied = true;        // head uses the embedding table
  bool bias = true;        // GPT-2: biases of linears and layer norms
  float norm_eps = 1e-5f;
  float dropout = 0.f;  // of embeddings and residual branches; attention has none
  double rope_theta = 10000.0;
  RopeStyle rope_style = RopeStyle::half_split;
  float init_std = 0.02f;
  bool stable_embedding = false;  // Xavier-uniform table, layer norm right behind the lookup
  std::int64_t factor_rank = 0;   // R: matrices of decoder blocks are W = B A; 0: whole
  /// What is wrong, naming the field (H does not divide C, K does not divide H, ...); empty:
  /// nothing.
  std::string problem() const;
  /// Throws config with the problem, if there is one.
  void validate() const;
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

/// gpt2-124m, llama-1b, tiny-gpt2, ... Throws config naming the nearest preset.
ModelConfig preset(std::string_view name);
std::vector<std::string> preset_names();
/// Parameters, tied ones once.
std::int64_t parameter_count(const ModelConfig& config);
/// Floating-point operations of forward and backward for one token of a sequence of T: 6 for each
/// parameter in a matrix product (the head once, the embedding table never) + 6 L T H D for causal
/// attention. Tables that count attention in full say 12 for its 6.
double training_flops_per_token(const ModelConfig& config, std::int64_t T);

/// config.json of a Hugging Face directory. Throws format for an architecture we do not know, for a
/// variant whose function we cannot compute (rope scaling, attention biases, another activation),
/// and for wrong values, naming the file and the field.
ModelConfig read_config(const std::filesystem::path& directory);
/// What transformers writes for the same model with weights of `dtype` (f32 or bf16). What it has
/// no word for (interleaved RoPE, dropout of the llama family, GPT-2 without biases) stands in an
/// object "strata", which transformers ignores.
std::string config_json(const ModelConfig& config, DType dtype = DType::f32);

}  // namespace strata::models
