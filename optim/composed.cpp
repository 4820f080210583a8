#include "optim/composed.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "core/error.h"
#include "optim/matrix_update.h"
#include "optim/percentile_clip.h"
#include "optim/tile.h"
#include "optim/turns.h"

namespace strata::optim {
namespace {

std::unique_ptr<Rule> make_rule(std::string_view name,
                                std::string_view method,
                                std::span<const Setting> settings,
                                const std::string& prefix) {
  const RuleType& type = find_rule(name, prefix + "rule");
  std::vector<Setting> own;
  for (const SettingInfo& info : type.settings()) {
    const auto given = std::ranges::find(settings, prefix + info.name, &Setting::name);
    if (given != settings.end()) {
      own.push_back({info.name, given->value});
    }
  }
  try {
    return type.make(method, own);
  } catch (const Error& error) {  // a rule does not know that its settings have a prefix
    constexpr std::string_view kSection = "optim.";
    std::string text = error.what();
    throw Error(error.code(),
                text.starts_with(kSection) ? text.insert(kSection.size(), prefix) : text);
  }
}

}  // namespace

void Parts::validate() const {
  require(min_coded >= 1, "min_coded", "a value of at least 1", static_cast<double>(min_coded));
  require(weight_decay >= 0, "weight_decay", "a value of at least 0", weight_decay);
  require(percentile_clip >= 1 && percentile_clip <= 100,
          "percentile_clip",
          "1 to 100",
          static_cast<double>(percentile_clip));
  require(!orthogonal || subspace == SubspaceKind::whole,
          "orthogonal",
          "subspace=whole: a direction out of a subspace has no full rank",
          "true");
}

struct Composed::Impl {
  Parts parts;
  AuxParts aux_parts;
  std::unique_ptr<Rule> rule, aux_rule;  // aux_rule: null where it is the same
  std::unique_ptr<MatrixUpdate> matrices;
  std::optional<TurnTaking> turns;

  /// What updates one parameter.
  struct Part {
    const Rule* rule;
    StateCodec codec;
    const MatrixUpdate* matrices;  // null: element by element
    double lr_ratio;
  };
  Part part_of(const ParamInfo& param) const {
    const bool apart = parts.only_matrices() && param.role != Role::matrix;
    Part part{apart && aux_rule ? aux_rule.get() : rule.get(),
              parts.states,
              apart ? nullptr : matrices.get(),
              apart ? aux_parts.lr_ratio : 1.0};
    const std::int64_t numel =
        part.matrices == nullptr ? param.shape.numel() : part.matrices->moment_numel(param);
    const bool kept = param.role == Role::vector || numel < parts.min_coded ||
                      (param.role == Role::embed && !parts.code_embeddings);
    // bf16 is no code: nothing is lost by small tensors that large ones keep.
    if (kept && (part.codec != StateCodec::bf16 || part.matrices == nullptr)) {
      part.codec = StateCodec::f32;
    }
    return part;
  }
  bool clips() const { return parts.percentile_clip < 100; }
  int clip_phases() const { return clips() ? kPercentilePhases : 0; }
  /// Of the gradient. `totals` has `stats` doubles for each phase, those of clipping first.
  double scale_of(const StepInfo& step, std::span<const double> totals, std::size_t stats) const {
    return static_cast<double>(step.grad_scale) *
           (clips() ? totals[static_cast<std::size_t>(kPercentilePhases - 1) * stats] : 1.0);
  }
  void move_waiting(const Slice& weight, const SliceIn& grad, const StepInfo& step) const;
  template <class T>
  void run(const Part& part,
           const Slice& weight,
           const SliceIn& grad,
           StateViews& state,
           double scale,
           const RuleStep& rule_step,
           const WeightStep& by,
           const StepInfo& step) const;
};

Composed::Composed(std::string_view method, std::span<const Setting> settings)
    : impl_(std::make_unique<Impl>()) {
  Impl& m = *impl_;
  m.parts = read_part<Parts>(method, settings);
  m.rule = make_rule(m.parts.rule, method, settings, "");
  m.matrices = make_matrix_update(m.parts.subspace, m.parts.orthogonal, method, settings);
  if (takes_turns(m.parts.subspace)) {
    m.turns.emplace(m.parts.subspace, method, settings);
  }
  if (m.parts.only_matrices()) {
    require(m.matrices == nullptr || m.rule->elementwise(),
            "rule",
            "one whose elements do not know of each other, such as adam, beside subspace and "
            "orthogonal",
            m.parts.rule);
    m.aux_parts = read_part<AuxParts>(method, settings);
    if (m.aux_parts.rule != kSameRule) {
      m.aux_rule = make_rule(m.aux_parts.rule, method, settings, "aux.");
    }
    require(m.matrices == nullptr || !m.matrices->changes_moments() ||
                m.parts.states == StateCodec::f32,
            "states",
            "f32 beside subspace=eigenbasis, which turns the moments",
            to_text(m.parts.states));
    require(m.matrices == nullptr || !m.matrices->of_image() || !m.rule->couples_decay() ||
                m.parts.weight_decay == 0,
            "weight_decay",
            "0, or decoupled=true: a subspace does not see the weights",
            m.parts.weight_decay);
  }
}

Composed::~Composed() = default;

StateLayout Composed::state_layout(const ParamInfo& param) const {
  const Impl::Part part = impl_->part_of(param);
  StateLayout layout;
  if (part.matrices != nullptr) {
    part.matrices->add_fields(param, *part.rule, part.codec, layout);
  } else {
    for (const Moment& moment : part.rule->moments()) {
      add_moment_fields(layout, part.codec, moment);
    }
    part.rule->add_fields(param, layout);
  }
  if (impl_->clips()) {
    layout.push_back(percentile_field());
  }
  return layout;
}

Granularity Composed::granularity(const ParamInfo& param) const {
  const Impl::Part part = impl_->part_of(param);
  if (part.matrices != nullptr) {
    return Granularity::whole();
  }
  const Granularity rule = part.rule->granularity(param);
  return rule == Granularity::element() ? Granularity::blocks_of(codec_block(part.codec)) : rule;
}

std::int64_t Composed::period_steps() const {
  return impl_->turns ? impl_->turns->period_steps() : 0;
}

std::vector<std::vector<Turn>> Composed::turns(std::span<const BlockSpec> blocks,
                                               std::int64_t period,
                                               std::uint64_t seed) const {
  return impl_->turns ? impl_->turns->turns(blocks, period, seed) : no_turns(blocks);
}

/// A subspace stays what it is.
void Composed::forget(const ParamInfo& param, StateViews& state, Stream& stream) const {
  const Impl::Part part = impl_->part_of(param);
  if (part.matrices == nullptr) {
    return Optimizer::forget(param, state, stream);
  }
  clear_moments(part.rule->moments(), part.codec, state);
}

bool Composed::freezes() const {
  return impl_->turns && impl_->turns->freezes();
}

Needs Composed::needs(const ParamInfo& param, std::int64_t) const {
  const Impl::Part part = impl_->part_of(param);
  Needs needs;
  if (part.matrices != nullptr) {
    needs.workspace_bytes = part.matrices->workspace_bytes(param);
  } else {
    needs.workspace_bytes = part.rule->workspace_bytes(param);
  }
  const RuleStats stats = part.rule->stat_needs();
  needs.stat_phases = impl_->clip_phases() + stats.phases;
  needs.stats = std::max(impl_->clips() ? 1 : 0, stats.stats);
  return needs;
}

void Composed::stats(const SliceIn& grad,
                     StateViews& state,
                     std::span<const double> totals,
                     std::span<double> partial,
                     int phase,
                     Workspace&,
                     const StepInfo& step,
                     Stream&) {
  const int clip_phases = impl_->clip_phases();
  if (phase >= clip_phases) {
    const Rule& rule = *impl_->part_of(*grad.param).rule;
    const auto before = static_cast<std::size_t>(clip_phases) * partial.size();
    const double scale = impl_->scale_of(step, totals, partial.size());
    return rule.stats(grad,
                      static_cast<float>(scale),
                      state,
                      totals.subspan(before),
                      partial,
                      phase - clip_phases);
  }
  if (phase == 0) {
    partial[0] = squared_norm(grad, step.grad_scale);
  } else if (grad.begin == 0) {
    partial[0] = percentile_scale(
        state, std::sqrt(totals[0]), static_cast<int>(impl_->parts.percentile_clip), step.t());
  }
}

template <class T>
void Composed::Impl::run(const Part& part,
                         const Slice& weight,
                         const SliceIn& grad,
                         StateViews& state,
                         double scale,
                         const RuleStep& rule_step,
                         const WeightStep& by,
                         const StepInfo& step) const {
  RuleLoop<T> loop;
  loop.numel = weight.numel();
  loop.grad = grad.grad.data<T>();
  loop.scale = static_cast<T>(scale);
  loop.weights = &weight;
  const RandomKey key{step.seed,
                      RandomUse::state_rounding,
                      static_cast<std::uint64_t>(step.step),
                      static_cast<std::uint64_t>(weight.param->id)};
  std::size_t next = 0;
  for (const Moment& moment : part.rule->moments()) {
    loop.moments[next++] =
        CodedMoment(part.codec, moment, state, key, weight.begin, parts.zero_code());
  }
  const auto sink = [&](std::int64_t begin, std::int64_t n, const T* direction) {
    move_weights(weight, begin, n, direction, by, step);
  };
  loop.sink = std::ref(sink);
  part.rule->run(rule_step, {weight.param, weight.begin, &state}, loop);
}

void Composed::Impl::move_waiting(const Slice& weight,
                                  const SliceIn& grad,
                                  const StepInfo& step) const {
  const double decay = decays(parts.decay, weight.param->role) ? parts.weight_decay : 0.0;
  const WeightStep by{.size = step.lr, .decay_before = step.lr * decay};
  const float* const g = grad.f32();
  for_each_tile(weight.numel(), [&](std::int64_t begin, std::int64_t n) {
    std::array<float, kTile> direction;
    for (std::int64_t i = 0; i < n; ++i) {
      direction[static_cast<std::size_t>(i)] = turns->waiting(step.grad_scale * g[begin + i]);
    }
    move_weights(weight, begin, n, direction.data(), by, step);
  });
}

void Composed::update(Slice& weight,
                      const SliceIn& grad,
                      StateViews& state,
                      std::span<const double> totals,
                      Workspace& workspace,
                      const StepInfo& step,
                      Stream& stream) {
  const Impl& m = *impl_;
  const ParamInfo& param = *weight.param;
  const Impl::Part part = m.part_of(param);
  if (step.turn == Turn::waiting) {
    return m.move_waiting(weight, grad, step);
  }
  const double decay = decays(m.parts.decay, param.role) ? m.parts.weight_decay : 0.0;
  const bool coupled = part.rule->couples_decay();
  const auto stats =
      static_cast<std::size_t>(std::max(m.clips() ? 1 : 0, part.rule->stat_needs().stats));
  const double scale = m.scale_of(step, totals, stats);
  const double lr = step.lr * part.lr_ratio;
  const double direct = coupled ? 0.0 : lr * decay;
  const bool after = part.rule->decays_after();
  WeightStep by{
      .size = lr, .decay_before = after ? 0.0 : direct, .decay_after = after ? direct : 0.0};
  if (part.matrices != nullptr) {
    return part.matrices->update({.weight = weight,
                                  .grad = grad.f32(),
                                  .scale = static_cast<float>(scale),
                                  .state = state,
                                  .rule = *part.rule,
                                  .codec = part.codec,
                                  .zero_code = m.parts.zero_code(),
                                  .coupled_decay = coupled ? decay : 0.0,
                                  .by = by,
                                  .info = step,
                                  .workspace = workspace.bytes,
                                  .stream = stream});
  }
  by.size *= part.rule->step_factor(step.t());
  const RuleStep rule_step{
      .t = step.t(),
      .coupled_decay = coupled ? decay : 0.0,
      .workspace = workspace.bytes,
      .totals = totals.subspan(static_cast<std::size_t>(m.clip_phases()) * stats)};
  weight.in_double() ? m.run<double>(part, weight, grad, state, scale, rule_step, by, step)
                     : m.run<float>(part, weight, grad, state, scale, rule_step, by, step);
}

}  // namespace strata::optim
