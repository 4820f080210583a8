#include "models/config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/nearest.h"

namespace strata::models {
namespace {

// Far above any model, low enough that every product of them fits an int64.
constexpr std::int64_t kMaxBlocks = 1 << 16;
constexpr std::int64_t kMaxWidth = 1 << 22;
constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();  // tokens are i32

std::string size_problem(const ModelConfig& c) {
  struct Size {
    std::string_view name;
    std::int64_t value, most;
  };
  const Size sizes[] = {{"L (blocks)", c.L, kMaxBlocks},
                        {"C (channels)", c.C, kMaxWidth},
                        {"H (heads)", c.H, kMaxWidth},
                        {"K (key/value heads)", c.K, kMaxWidth},
                        {"D (head size)", c.D, kMaxWidth},
                        {"F (feed-forward width)", c.F, kMaxWidth},
                        {"V (vocabulary)", c.V, kMaxIndex},
                        {"max_T (positions)", c.max_T, kMaxIndex}};
  for (const Size& size : sizes) {
    if (size.value < 1 || size.value > size.most) {
      return fmt::format("{} must be 1 to {}, got {}", size.name, size.most, size.value);
    }
  }
  if (c.H * c.D > kMaxWidth) {
    return fmt::format("H * D must be at most {}, got {} * {}", kMaxWidth, c.H, c.D);
  }
  return {};
}

std::string gpt2_problem(const ModelConfig& c) {
  if (c.C % c.H != 0) {
    return fmt::format("H must divide C, got H = {}, C = {}", c.H, c.C);
  }
  if (c.D != c.C / c.H || c.K != c.H) {
    return fmt::format(
        "gpt2 needs D = C / H and K = H, got C = {}, H = {}, K = {}, D = {}", c.C, c.H, c.K, c.D);
  }
  return {};
}

std::string llama_problem(const ModelConfig& c) {
  if (c.H % c.K != 0) {
    return fmt::format("K must divide H, got H = {}, K = {}", c.H, c.K);
  }
  if (c.D % 2 != 0) {
    return fmt::format("D must be even (RoPE rotates pairs), got {}", c.D);
  }
  if (!(c.rope_theta > 0) || !std::isfinite(c.rope_theta)) {
    return fmt::format("rope_theta must be positive, got {}", c.rope_theta);
  }
  if (c.bias) {
    return "the llama family has no biases, got bias = true";
  }
  return {};
}

/// The shape of the first matrix of a decoder block that is thinner than the rank of its factors.
std::string factor_problem(const ModelConfig& c) {
  struct Matrix {
    std::string_view name;
    std::int64_t out, in;
  };
  const std::vector<Matrix> matrices =
      c.family == Family::gpt2 ? std::vector<Matrix>{{"attn.c_attn", 3 * c.C, c.C},
                                                     {"attn.c_proj", c.C, c.C},
                                                     {"mlp.c_fc", c.F, c.C},
                                                     {"mlp.c_proj", c.C, c.F}}
                               : std::vector<Matrix>{{"self_attn.q_proj", c.H * c.D, c.C},
                                                     {"self_attn.k_proj", c.K * c.D, c.C},
                                                     {"self_attn.v_proj", c.K * c.D, c.C},
                                                     {"self_attn.o_proj", c.C, c.H * c.D},
                                                     {"mlp.gate_proj", c.F, c.C},
                                                     {"mlp.up_proj", c.F, c.C},
                                                     {"mlp.down_proj", c.C, c.F}};
  const auto short_side = [](const Matrix& m) { return std::min(m.out, m.in); };
  const Matrix& thinnest = *std::ranges::min_element(matrices, {}, short_side);
  if (c.factor_rank < 0 || c.factor_rank > short_side(thinnest)) {
    return fmt::format(
        "factor_rank needs at most {}, the short side of {} ({}, {}), got {}; the nearest is {}, "
        "and 0 keeps matrices whole",
        short_side(thinnest),
        thinnest.name,
        thinnest.out,
        thinnest.in,
        c.factor_rank,
        c.factor_rank < 0 ? 0 : short_side(thinnest));
  }
  return {};
}

ModelConfig gpt2(std::int64_t L, std::int64_t C, std::int64_t H) {
  ModelConfig c;
  c.family = Family::gpt2;
  c.L = L;
  c.C = C;
  c.H = c.K = H;
  c.D = C / H;
  c.F = 4 * C;
  c.V = 50257;
  c.max_T = 1024;
  return c;
}

ModelConfig llama(std::int64_t L, std::int64_t C, std::int64_t F, std::int64_t H, std::int64_t K) {
  ModelConfig c;
  c.family = Family::llama;
  c.L = L;
  c.C = C;
  c.F = F;
  c.H = H;
  c.K = K;
  c.D = C / H;
  c.V = 32000;
  c.tied = false;
  c.bias = false;
  return c;
}

ModelConfig with_sizes(ModelConfig c, std::int64_t V, std::int64_t max_T) {
  c.V = V;
  c.max_T = max_T;
  return c;
}

ModelConfig with_theta(ModelConfig c, double theta) {
  c.rope_theta = theta;
  return c;
}

struct Preset {
  std::string name;
  ModelConfig config;
};

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all{
      {"tiny-gpt2", with_sizes(gpt2(4, 128, 4), 256, 256)},
      {"gpt2-char", with_sizes(gpt2(6, 384, 6), 65, 256)},
      {"gpt2-124m", gpt2(12, 768, 12)},
      {"gpt2-350m", gpt2(24, 1024, 16)},
      {"gpt2-774m", gpt2(36, 1280, 20)},
      {"gpt2-1.5b", gpt2(48, 1600, 25)},
      {"tiny-llama", with_sizes(llama(4, 128, 344, 4, 2), 256, 256)},
      {"llama-1b", with_sizes(llama(22, 2048, 5632, 32, 4), 32000, 2048)},
      {"llama-7b", with_sizes(llama(32, 4096, 11008, 32, 32), 32000, 4096)},
      {"llama-8b", with_theta(with_sizes(llama(32, 4096, 14336, 32, 8), 128256, 8192), 500000)},
  };
  return all;
}

}  // namespace

std::string ModelConfig::problem() const {
  if (std::string text = size_problem(*this); !text.empty()) {
    return text;
  }
  if (!(norm_eps > 0) || !std::isfinite(norm_eps)) {
    return fmt::format("norm_eps must be positive, got {}", norm_eps);
  }
  if (!(dropout >= 0 && dropout < 1)) {
    return fmt::format("dropout must be in [0, 1), got {}", dropout);
  }
  if (!(init_std >= 0) || !std::isfinite(init_std)) {
    return fmt::format("init_std must not be negative, got {}", init_std);
  }
  if (std::string text = family == Family::gpt2 ? gpt2_problem(*this) : llama_problem(*this);
      !text.empty()) {
    return text;
  }
  return factor_problem(*this);
}

void ModelConfig::validate() const {
  if (const std::string text = problem(); !text.empty()) {
    throw Error(Errc::config, "model: " + text);
  }
}

ModelConfig preset(std::string_view name) {
  for (const Preset& p : presets()) {
    if (p.name == name) {
      return p.config;
    }
  }
  const std::vector<std::string> names = preset_names();
  throw Error(Errc::config,
              fmt::format("model: no preset '{}'; did you mean '{}'? Presets: {}",
                          name,
                          nearest(name, names),
                          fmt::join(names, ", ")));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : presets()) {
    names.push_back(p.name);
  }
  return names;
}

}  // namespace strata::models
