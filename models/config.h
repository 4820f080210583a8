#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/ops/rope.h"

namespace strata::models {

enum class Family : std::uint8_t { gpt2, llama };

/// A decoder-only model. Letters as everywhere: see models/README.md.
struct ModelConfig {
  Family family = Family::gpt2;
  std::int64_t L = 0, C = 0, H = 0, K = 0, D = 0, F = 0, V = 0;
  std::int64_t max_T = 0;
  bool tied = true;  // head uses the embedding table
  bool bias = true;  // GPT-2: biases of linears and layer norms
  float norm_eps = 1e-5f;
  float dropout = 0.f;
  double rope_theta = 10000.0;
  RopeStyle rope_style = RopeStyle::half_split;
  float init_std = 0.02f;
  /// Throws config naming the field (H does not divide C, K does not divide H, ...).
  void validate() const;
};

/// gpt2-124m, llama-1b, tiny-gpt2, ... Throws config naming the nearest preset.
ModelConfig preset(std::string_view name);
std::vector<std::string> preset_names();
/// Parameters, tied ones once.
std::int64_t parameter_count(const ModelConfig& config);

/// config.json of a Hugging Face directory. Throws format for an architecture we do not know.
ModelConfig read_config(const std::filesystem::path& directory);
/// What transformers writes for the same model.
std::string config_json(const ModelConfig& config);

}  // namespace strata::models
