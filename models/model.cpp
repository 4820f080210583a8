#include "models/model.h"

#include <algorithm>

#include "core/normal.h"
#include "models/families.h"

namespace strata::models {

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
  const RandomKey key{seed, RandomUse::init, 0, static_cast<std::uint64_t>(spec.info.id)};
  if (init.std != 0.f) {
    fill_normal(to, key, begin, init.mean, init.std);
  } else if (init.bound != 0.f) {
    fill_uniform(to, key, begin, init.mean, init.bound);
  } else {
    std::fill(to.begin(), to.end(), init.mean);
  }
}

}  // namespace strata::models
