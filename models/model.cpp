#include "models/model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/for_each.h"
#include "core/philox.h"
#include "models/families.h"

namespace strata::models {
namespace {

/// Four standard normal numbers from four words, by Box and Muller in double.
std::array<double, 4> normals(const std::array<std::uint32_t, 4>& words) {
  std::array<double, 4> z{};
  for (std::size_t i = 0; i < 4; i += 2) {
    const double u = (static_cast<double>(words[i]) + 1.0) * 0x1p-32;  // (0, 1]: has a logarithm
    const double angle = 2.0 * std::numbers::pi * static_cast<double>(words[i + 1]) * 0x1p-32;
    const double radius = std::sqrt(-2.0 * std::log(u));
    z[i] = radius * std::cos(angle);
    z[i + 1] = radius * std::sin(angle);
  }
  return z;
}

}  // namespace

std::vector<std::unique_ptr<Block>> build_blocks(const ModelConfig& config) {
  config.validate();
  return config.family == Family::gpt2 ? gpt2_blocks(config) : llama_blocks(config);
}

std::int64_t parameter_count(const ModelConfig& config) {
  std::int64_t count = 0;
  for (const auto& block : build_blocks(config)) {
    for (const ParamSpec& param : block->spec().params) {
      count += param.info.shape.numel();
    }
  }
  return count;
}

double training_flops_per_token(const ModelConfig& config, std::int64_t T) {
  std::int64_t params = config.tied ? config.V * config.C : 0;
  for (const auto& block : build_blocks(config)) {
    for (const ParamSpec& param : block->spec().params) {
      const Role role = param.info.role;
      params += role == Role::matrix || role == Role::head ? param.info.shape.numel() : 0;
    }
  }
  return 6.0 * static_cast<double>(params) +
         6.0 * static_cast<double>(config.L * T) * static_cast<double>(config.H * config.D);
}

void init_param(const ParamSpec& spec,
                std::uint64_t seed,
                std::int64_t begin,
                std::span<float> to) {
  const Init init = spec.init;
  if (init.std == 0.f) {
    std::fill(to.begin(), to.end(), init.mean);
    return;
  }
  const RandomKey key{seed, RandomUse::init, 0, static_cast<std::uint64_t>(spec.info.id)};
  parallel_for(static_cast<std::int64_t>(to.size()), kChunk, [&](std::int64_t b, std::int64_t e) {
    std::int64_t group = -1;  // four elements share one draw
    std::array<double, 4> z{};
    for (std::int64_t i = b; i < e; ++i) {
      const std::int64_t element = begin + i;
      if (element / 4 != group) {
        group = element / 4;
        z = normals(key.words(static_cast<std::uint64_t>(group)));
      }
      to[static_cast<std::size_t>(i)] =
          static_cast<float>(init.mean + init.std * z[static_cast<std::size_t>(element % 4)]);
    }
  });
}

}  // namespace strata::models
