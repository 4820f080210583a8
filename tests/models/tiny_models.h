#pragma once
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "models/hf.h"
#include "models/model.h"

namespace strata::models {

using Blocks = std::vector<std::unique_ptr<Block>>;

/// Small enough for finite differences of every parameter.
inline ModelConfig tiny_config(Family family, bool tied) {
  ModelConfig c;
  c.family = family;
  c.L = 2;
  c.C = 16;
  c.H = 4;
  c.K = family == Family::gpt2 ? 4 : 2;
  c.D = 4;
  c.F = 24;
  c.V = 11;
  c.max_T = 8;
  c.tied = tied;
  c.bias = family == Family::gpt2;
  c.init_std = 0.3f;  // far from the linear regime, so that every term matters
  return c;
}

using Values = std::map<std::string, std::vector<float>>;

/// Values for every parameter; vectors too differ from their constants.
inline Values random_values(const ModelConfig& config, std::uint64_t seed = 1) {
  Values values;
  for (const auto& block : build_blocks(config)) {
    for (ParamSpec param : block->spec().params) {
      param.init.std = param.init.std == 0.f ? 0.1f : param.init.std;
      auto& to = values[param.info.name];
      to.resize(static_cast<std::size_t>(param.info.shape.numel()));
      init_param(param, seed, 0, to);
    }
  }
  return values;
}

inline ParamSource source_of(const Values& values) {
  return [&values](const ParamSpec& param, std::int64_t begin, std::span<float> to) {
    const auto& from = values.at(param.info.name);
    std::copy_n(from.begin() + begin, to.size(), to.begin());
  };
}

/// Collects what a reader delivers, piece by piece in order.
inline ParamSink sink_to(Values& values) {
  return [&values](const ParamSpec& param, std::int64_t begin, std::span<const float> from) {
    auto& to = values[param.info.name];
    STRATA_ASSERT(static_cast<std::int64_t>(to.size()) == begin);
    to.insert(to.end(), from.begin(), from.end());
  };
}

}  // namespace strata::models
