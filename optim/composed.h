#pragma once
#include <memory>
#include <string>

#include "optim/decay_scope.h"
#include "optim/optimizer.h"
#include "optim/rule.h"
#include "optim/subspace.h"

namespace strata::optim {

/// Which parts an update is made of; the parts' own settings stand beside these.
struct Parts {
  std::string rule = "adam";
  StateCodec states = StateCodec::f32;
  std::int64_t min_coded = 4096;
  bool code_embeddings = false;
  bool v_floor = true;
  SubspaceKind subspace = SubspaceKind::whole;
  double weight_decay = 0.1;
  DecayScope decay = DecayScope::no_vectors;
  std::int64_t percentile_clip = 100;
  bool orthogonal = false;
  quant::ZeroCode zero_code() const {
    return v_floor ? quant::ZeroCode::half_least : quant::ZeroCode::zero;
  }
  /// Whether matrices are updated in their own way, which leaves the other tensors to AuxParts.
  bool only_matrices() const {
    return (subspace != SubspaceKind::whole && subspace != SubspaceKind::blocks) || orthogonal;
  }
  void fields(auto&& f) {
    f("rule", rule, "how gradient and moments become a direction");
    f("states", states, "how moments are kept: f32, bf16, 8bit, 4bit or fp8");
    f("min_coded", min_coded, "tensors of fewer elements keep their moments in f32");
    f("code_embeddings", code_embeddings, "embeddings keep coded moments too");
    f("v_floor",
      v_floor,
      "a second moment whose 8-bit code is zero counts as half the least positive one");
    f("subspace", subspace, "what of a matrix's gradient moments see: whole or a subspace");
    f("orthogonal", orthogonal, "directions of matrices are orthogonalised, as in Muon");
    f("weight_decay", weight_decay, "decay, times the learning rate");
    f("decay", decay, "what decays: matrices, no_vectors (embeddings too) or all");
    f("percentile_clip",
      percentile_clip,
      "clips a tensor's gradient at this percentile of its last 100 norms; 100: never");
  }
  void validate() const;
};

/// AuxParts::rule where it is the matrices' own.
inline constexpr std::string_view kSameRule = "same";

/// Of the tensors that a composition for matrices leaves: embeddings, head, norms, biases.
struct AuxParts {
  std::string rule = "same";
  double lr_ratio = 1.0;
  void fields(auto&& f) {
    f("aux.rule", rule, "rule of what is no matrix; same: the matrices' rule");
    f("aux.lr_ratio", lr_ratio, "its learning rate, relative to the matrices'");
  }
  void validate() const {
    require(lr_ratio >= 0, "aux.lr_ratio", "a value of at least 0", lr_ratio);
  }
};

/// An update made of parts: rule x state codec x subspace x remainder, applied to any weight
/// format.
class Composed final : public Optimizer {
 public:
  Composed(std::string_view method, std::span<const Setting> settings);
  ~Composed() override;
  StateLayout state_layout(const ParamInfo& param) const override;
  Granularity granularity(const ParamInfo& param) const override;
  Needs needs(const ParamInfo& param, std::int64_t step) const override;
  std::int64_t period_steps() const override;
  std::vector<std::vector<Turn>> turns(std::span<const BlockSpec> blocks,
                                       std::int64_t period,
                                       std::uint64_t seed) const override;
  bool freezes() const override;
  void forget(const ParamInfo& param, StateViews& state, Stream& stream) const override;
  void stats(const SliceIn& grad,
             StateViews& state,
             std::span<const double> totals,
             std::span<double> partial,
             int phase,
             Workspace& workspace,
             const StepInfo& step,
             Stream& stream) override;
  void update(Slice& weight,
              const SliceIn& grad,
              StateViews& state,
              std::span<const double> totals,
              Workspace& workspace,
              const StepInfo& step,
              Stream& stream) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata::optim
