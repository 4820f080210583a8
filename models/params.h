#pragma once
#include <span>
#include <string>

#include "core/block.h"
#include "core/error.h"
#include "core/ops/linear.h"
#include "core/ops/loss.h"
#include "models/config.h"

namespace strata::models {

/// Declares the parameters of a model's blocks in order; ids count over the whole model.
class ParamDeclarer {
 public:
  void add(
      BlockSpec& block, std::string name, Role role, Shape shape, Init init, int output_axis = 0) {
    block.params.push_back({{next_id_++, std::move(name), role, shape, output_axis}, init});
  }
  /// The weight "name.weight" (out, in) of a linear layer, of standard deviation `std`, as `layout`
  /// keeps it, and a bias where the config has them. Of a factor_rank R: A (R, in) and B (out, R),
  /// "name.a.weight" and "name.b.weight", whose product has that deviation.
  void add_linear(BlockSpec& block,
                  const std::string& name,
                  std::int64_t out,
                  std::int64_t in,
                  float std,
                  WeightLayout layout,
                  const ModelConfig& config);
  /// "name.weight" and "name.bias" of a layer norm.
  void add_layer_norm(BlockSpec& block, const std::string& name, const ModelConfig& config);

 private:
  TensorId next_id_ = 0;
};

/// Of the token table: Xavier-uniform where the embedding is stable.
Init table_init(const ModelConfig& config);

/// Takes a block's parameters in the order in which they were declared.
class ParamCursor {
 public:
  explicit ParamCursor(std::span<const Value> params) : rest_(params) {}
  Value next() {
    STRATA_ASSERT(!rest_.empty());
    const Value v = rest_.front();
    rest_ = rest_.subspan(1);
    return v;
  }
  /// A parameter that this model may lack.
  Value next_if(bool present) { return present ? next() : Value{}; }

 private:
  std::span<const Value> rest_;
};

/// Names an activation slot for `plan --explain`.
inline Value named(Graph& graph, Value v, std::string name) {
  graph.info(v).name = std::move(name);
  return v;
}

/// x through a layer of add_linear. Of two factors, what passes between them is (..., R) and named
/// "name_low"; no matrix of W's size exists.
Value linear_layer(Graph& graph,
                   Value x,
                   ParamCursor& params,
                   WeightLayout layout,
                   const ModelConfig& config,
                   const std::string& name);

/// Rows of the token table and of the positions, if there are any. A stable embedding takes the
/// weights of its norm from `norm` and adds positions behind it.
Value embed(
    Graph& graph, Value table, Value positions, ParamCursor& norm, const ModelConfig& config);

/// The table that turns channels into logits: the embedding's (block 0, parameter 0), or one of the
/// head's own.
inline void declare_head_table(ParamDeclarer& declare,
                               BlockSpec& block,
                               const ModelConfig& config) {
  if (config.tied) {
    block.borrows.push_back({0, 0, {config.V, config.C}});
  } else {
    declare.add(block, "lm_head.weight", Role::head, {config.V, config.C}, {0.f, config.init_std});
  }
}

/// The end of every model: logits of each position, or their loss, which is no value.
inline Value project(Graph& graph, Value normed, Value table, bool logits_only) {
  if (logits_only) {
    return logits(graph, normed, table);
  }
  linear_cross_entropy(graph, normed, table);
  return {};
}

}  // namespace strata::models
