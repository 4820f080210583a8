#include "models/params.h"

#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/norm.h"

namespace strata::models {
namespace {

constexpr Init kOnes{1.f, 0.f};
constexpr Init kZeros{0.f, 0.f};

}  // namespace

void ParamDeclarer::add_linear(BlockSpec& block,
                               const std::string& name,
                               std::int64_t out,
                               std::int64_t in,
                               float std,
                               WeightLayout layout,
                               const ModelConfig& config) {
  const bool turned = layout == WeightLayout::in_out;
  const auto matrix = [&](const std::string& of, std::int64_t rows, std::int64_t columns, float s) {
    const Shape shape = turned ? Shape{columns, rows} : Shape{rows, columns};
    add(block, of + ".weight", Role::matrix, shape, {0.f, s}, turned ? 1 : 0);
  };
  const std::int64_t R = config.factor_rank;
  if (R == 0) {
    matrix(name, out, in, std);
  } else {
    // Sums of R products have the variance of W; B^T B and A A^T are of one size, as they are after
    // balanced_factors.
    const float both = std / std::sqrt(static_cast<float>(R));
    const float skew = std::sqrt(static_cast<float>(out) / static_cast<float>(in));
    const int a = static_cast<int>(block.params.size()), b = a + 1;
    matrix(name + ".a", R, in, std::sqrt(both * skew));
    matrix(name + ".b", out, R, std::sqrt(both / skew));
    block.factors.push_back(turned ? FactorPair{a, b} : FactorPair{b, a});
  }
  if (config.bias) {
    add(block, name + ".bias", Role::vector, {out}, kZeros);
  }
}

void ParamDeclarer::add_layer_norm(BlockSpec& block,
                                   const std::string& name,
                                   const ModelConfig& config) {
  add(block, name + ".weight", Role::vector, {config.C}, kOnes);
  if (config.bias) {
    add(block, name + ".bias", Role::vector, {config.C}, kZeros);
  }
}

Init table_init(const ModelConfig& config) {
  if (!config.stable_embedding) {
    return {0.f, config.init_std};
  }
  return {.bound = std::sqrt(6.f / static_cast<float>(config.V + config.C))};
}

Value linear_layer(Graph& graph,
                   Value x,
                   ParamCursor& params,
                   WeightLayout layout,
                   const ModelConfig& config,
                   const std::string& name) {
  if (config.factor_rank > 0) {
    x = named(graph, linear(graph, x, params.next(), {}, layout), name + "_low");
  }
  const Value weight = params.next();
  const Value bias = params.next_if(config.bias);
  return named(graph, linear(graph, x, weight, bias, layout), name);
}

Value embed(
    Graph& graph, Value table, Value positions, ParamCursor& norm, const ModelConfig& config) {
  if (!config.stable_embedding) {
    return named(graph, embedding(graph, table, positions), "embedded");
  }
  const Value rows = named(graph, embedding(graph, table, {}), "token_rows");
  const Value weight = norm.next();
  const Value bias = norm.next_if(config.bias);
  Value x = layer_norm(graph, rows, weight, bias, config.norm_eps);
  if (positions) {
    x = add_positions(graph, x, positions);
  }
  return named(graph, x, "embedded");
}

}  // namespace strata::models
