#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/block.h"
#include "core/param.h"
#include "core/runtime.h"

namespace strata::optim {

/// What a parameter's update asks for in one step, beyond its slice, gradient and state. Memory and
/// program are planned once: workspace_bytes and stat_phases of step 1 bound those of every step.
struct Needs {
  std::int64_t workspace_bytes = 0;
  int stat_phases = 0;  // how often stats() is called before update(); 0: no reduction
  int stats = 0;        // doubles per phase
  bool active = true;   // false: this parameter is frozen in this step
};

/// Scratch of one update.
struct Workspace {
  std::span<std::byte> bytes;
};

/// A method: mathematics on views. Owns no memory; sees no model, rank, tier or path, so sharding,
/// offload and checkpoints work for it unasked. `StepInfo::lr` and `grad_scale` are applied by the
/// method.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual StateLayout state_layout(const ParamInfo& param) const = 0;
  virtual Granularity granularity(const ParamInfo&) const { return Granularity::element(); }
  virtual Needs needs(const ParamInfo&, std::int64_t /*step*/) const { return {}; }
  /// Steps of a period, where parameters take turns; 0: all train all the time.
  virtual std::int64_t period_steps() const { return 0; }
  /// By block and parameter, in a period from 0: a function of the arguments alone, so that ranks
  /// agree. What waits is updated without state fields. Throws config when the model has too little
  /// to choose from.
  virtual std::vector<std::vector<Turn>> turns(std::span<const BlockSpec> blocks,
                                               std::int64_t period,
                                               std::uint64_t seed) const;
  /// Whether what has no turn is frozen; else it waits.
  virtual bool freezes() const { return false; }
  /// State of a fresh slice; bytes arrive zeroed.
  virtual void init(const ParamInfo&, StateViews&, Stream&) const {}
  /// Moments become those of a fresh slice. Here: all fields do.
  virtual void forget(const ParamInfo& param, StateViews& state, Stream& stream) const;
  /// Adds this slice's share of phase `phase` to `partial`, which arrives zeroed, in fixed chunks.
  /// Slices are pieces whose size follows from the tensor alone, whoever owns them (cut_unit), and
  /// shares are added in order by the caller. `totals`: those of the phases before, `stats` doubles
  /// each. State may be changed.
  virtual void stats(const SliceIn&,
                     StateViews&,
                     std::span<const double> /*totals*/,
                     std::span<double> /*partial*/,
                     int /*phase*/,
                     Workspace&,
                     const StepInfo&,
                     Stream&) {}
  /// `totals`: of all phases of the parameter, in order.
  virtual void update(Slice& weight,
                      const SliceIn& grad,
                      StateViews& state,
                      std::span<const double> totals,
                      Workspace& workspace,
                      const StepInfo& step,
                      Stream& stream) = 0;
};

/// Turn::always for every parameter.
std::vector<std::vector<Turn>> no_turns(std::span<const BlockSpec> blocks);

/// Settings of a method as text, dotted name without the "optim." prefix to value.
struct Setting {
  std::string name, value;
};

/// Name, default value and meaning of one setting; behind help, schema and "did you mean".
struct SettingInfo {
  std::string name, default_value, help;
};

/// The method of that name with these settings. Throws config for an unknown method or setting,
/// naming the nearest one, and for values out of range.
std::unique_ptr<Optimizer> make_optimizer(std::string_view method,
                                          std::span<const Setting> settings);
std::vector<std::string> optimizer_names();
/// What the method takes when these settings are given: parts that they choose bring their own.
std::vector<SettingInfo> optimizer_settings(std::string_view method,
                                            std::span<const Setting> given = {});

}  // namespace strata::optim
