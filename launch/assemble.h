#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/block.h"
#include "core/communicator.h"
#include "core/executor.h"
#include "core/schedule.h"
#include "core/state_dict.h"
#include "launch/model_state.h"
#include "launch/offloading.h"
#include "launch/optimizer_bytes.h"
#include "launch/sharding.h"
#include "models/hf.h"
#include "offload/activation_choice.h"
#include "offload/planner.h"
#include "offload/simulator.h"
#include "optim/optimizer.h"

namespace strata::offload {
class TieredStore;
}

namespace strata::launch {

/// What a rank computes: a model, the shape of a step, a method. No data, no addresses.
struct Computation {
  RankPlace place;
  models::ModelConfig model;
  std::int64_t T = 0;             // tokens of a sequence
  std::int64_t B = 0;             // sequences of a micro-batch
  std::int64_t G = 0;             // micro-batches of a step
  std::int64_t evaluation_G = 0;  // micro-batches of one evaluation run; 0: none
  DType dtype = DType::f32;
  std::optional<WeightFormat> weights;  // absent: f32, or bf16 beside an f32 master
  Order order = Order::micro_batch_major;
  UpdateMode update = UpdateMode::after_norm;
  /// UpdateMode::hybrid: how many blocks speculate. Absent: none yet, as many as there is room for.
  std::optional<int> speculated;
  Summation summation = Summation::run;
  bool sharded_update = true;      // ZeRO-1: each rank keeps state of its shards alone
  std::int64_t steps = 1;          // of the run: who takes turns in it is planned
  std::uint64_t seed = 0;          // of the run: keys who has a turn when
  std::int64_t balance_every = 0;  // steps between balancings of factors; 0: never
  std::string method = "adamw";
  std::vector<optim::Setting> method_settings;
  /// By decoder block; empty: none. Changes no bit, unless a lossy codec is given what is kept.
  offload::RecomputeChoice recompute = {};
  ActivationCodec activation_codec = ActivationCodec::exact;
  std::shared_ptr<const Offloading> offloading = {};  // absent: all is in the device. Nor does it.
  WeightFormat weight_format() const {
    return weights.value_or(dtype == DType::f32 ? WeightFormat::f32 : WeightFormat::bf16_master);
  }
};

/// The rooms tied together on paper: one rank's programs and their plan, nothing allocated.
class Blueprint {
 public:
  /// Throws config when there are fewer micro-batches than ranks.
  explicit Blueprint(const Computation& computation);
  ~Blueprint();
  const Computation& computation() const;
  const offload::Plan& plan() const;
  /// Of the period entered; where no turns are taken there is one.
  const Program& step_program() const;
  /// The one of most instructions among all periods.
  const Program& longest_step_program() const;
  const Program& evaluation_program() const;
  const BlockProgram& block_program(int block) const;  // of training
  OptimizerBytes optimizer_bytes() const;
  /// Multiply-adds counted twice, of forward and backward of one step, recompute not counted.
  double step_flops() const;
  /// A step on virtual time; absent where nothing is offloaded.
  std::optional<offload::Simulation> simulate_step() const;
  /// What recompute adds to a step.
  double recompute_flops() const;
  struct Impl;
  Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

/// The rooms tied together in memory: what the commands drive.
class Engine {
 public:
  /// Throws infeasible when the plan does not fit the budgets; nothing is allocated then. `ranks`
  /// has the rank and size of the blueprint and outlives the engine.
  Engine(std::unique_ptr<Blueprint> blueprint,
         const offload::Budgets& budgets,
         Communicator& ranks);
  ~Engine();

  /// Fresh state, weights from `weights` or, if empty, from (seed, tensor, element). Block by
  /// block: no more of them is in memory than the plan says.
  void start(std::uint64_t seed, const models::ParamSource& weights);
  /// Every stored field of every tensor, as of the checkpoint's step.
  void restore(const checkpoint::Reader& reader);

  /// One training step, collective. Where updates are lazy, weights are those of this step once
  /// they are asked for. `scalars.inputs` in, with this rank's micro-batches; results
  /// out.
  void step(StepScalars& scalars);
  /// What steps leave to the next one is done now: transfers that run on, updates that were put
  /// off. All below do so first.
  void settle();
  /// `sum` plus the losses of evaluation_G micro-batches in their order, nats. `batches`: this
  /// rank's. Collective.
  double evaluate(double sum, std::span<const MicroBatch> batches);
  /// A hash of what is equal on all ranks: the working weights, and all state unless it is sharded.
  std::uint64_t replica_hash() const;
  /// Runs the snapshot program through the checkpointer.
  void snapshot(Snapshotter& to);
  /// What this rank writes into a checkpoint, in the order of the snapshot program.
  /// It changes with the period.
  StateDict state_dict() const;
  std::int64_t period() const;
  const Ledger& ledger() const;
  const offload::TieredStore& store() const;
  const Blueprint& blueprint() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata::launch
