#include "launch/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <tuple>

#include <fmt/format.h>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "core/kill_point.h"
#include "core/runtime.h"
#include "launch/model_dir.h"
#include "launch/nonfinite.h"
#include "launch/plan_report.h"
#include "launch/provenance.h"
#include "launch/ranks.h"
#include "launch/report.h"
#include "launch/signals.h"
#include "launch/speculation.h"
#include "launch/trace.h"
#include "parallel/replicas.h"

namespace strata::launch {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kHopeless = 20;  // skipped steps in a row after which no later one will do better

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Trainer {
 public:
  Trainer(Job job, Communicator& ranks, RunDir* dir, const std::filesystem::path& checkpoint)
      : job_(std::move(job)),
        config_(job_.settings.config()),
        ranks_(ranks),
        dir_(config_.run_dir),
        sampler_(*job_.data.train, job_.computation.T, config_.train.seed),
        engine_(make_engine()) {
    if (first()) {
      print_summary(job_, engine_.blueprint());
    }
    if (checkpoint.empty()) {
      engine_.start(config_.train.seed, job_.init);
      state_.seed = config_.train.seed;
    } else {
      restore(checkpoint);
    }
    state_.settings.clear();
    for (const auto& [key, value] : job_.settings.values()) {
      state_.settings[key] = value.text;
    }
    state_.numeric_hash = job_.settings.numeric_hash();
    state_.numeric_environment = environment();
    state_.files = model_files(job_.computation.model, *job_.data.tokenizer);
    if (dir != nullptr) {
      dir->create();
    }
    make_writer();
    report_ =
        dir == nullptr ? std::make_unique<Report>() : std::make_unique<Report>(dir_, state_.step);
    trace_ = std::make_unique<Trace>(trace_config(), engine_.ledger(), *report_);
    if (dir != nullptr) {
      io::replace_file(dir_ / "config.toml", job_.settings.toml());
    }
  }

  TrainResult run();

 private:
  Engine make_engine() const {
    Planned planned = plan_together(job_, ranks_);
    return Engine(std::move(planned.blueprint), planned.budgets, ranks_);
  }
  bool first() const { return ranks_.rank() == 0; }
  std::map<std::string, std::string> environment() const {
    return numeric_environment(job_.computation.summation, ranks_.size());
  }
  TraceConfig trace_config() const {
    return {
        .file = dir_ / (first() ? "trace.json" : fmt::format("trace.rank{}.json", ranks_.rank())),
        .steps = config_.trace_steps,
        .spans = trace_spans(config_.trace_steps, engine_.blueprint().longest_step_program())};
  }
  void make_writer();
  void restore(const std::filesystem::path& checkpoint);
  void load_batches();
  void step();
  void evaluate();
  void save();
  [[noreturn]] void stop_here();
  bool immediate() const { return job_.computation.update == UpdateMode::immediate; }
  bool due(std::int64_t every) const { return every > 0 && state_.step % every == 0; }

  Job job_;
  const RunConfig& config_;
  Communicator& ranks_;
  const std::filesystem::path dir_;
  data::WindowSampler sampler_;
  Engine engine_;
  StepRecord record_{engine_};
  std::unique_ptr<checkpoint::Writer> writer_;
  RunState state_;
  std::tuple<std::int64_t, std::int64_t, std::int64_t> before_;  // step, tokens, samples
  std::unique_ptr<Report> report_;
  std::unique_ptr<Trace> trace_;
  std::vector<MicroBatch> batches_, evaluation_batches_;
  StepScalars scalars_;
  TrainResult result_;
  std::int64_t saved_step_ = -1, evaluated_step_ = -1, written_period_ = 0;
  int skipped_in_a_row_ = 0;
};

void Trainer::restore(const std::filesystem::path& checkpoint) {
  const checkpoint::Reader reader(checkpoint);
  engine_.restore(reader);
  state_ = reader.state();
  result_.checkpoint = checkpoint;
  saved_step_ = checkpoint.parent_path() == dir_ / "ckpt" ? state_.step : -1;
  if (first()) {
    std::fprintf(stderr,
                 "resuming from %s after step %lld\n",
                 checkpoint.c_str(),
                 static_cast<long long>(state_.step));
    warn_of_differences(state_, job_.settings, environment());
  }
}

/// Another period has other entries.
void Trainer::make_writer() {
  const checkpoint::WriterConfig config{.root = dir_ / "ckpt",
                                        .keep_last = static_cast<int>(config_.checkpoint.keep_last),
                                        .queue = {.engine = config_.io.engine}};
  writer_ = std::make_unique<checkpoint::Writer>(config, engine_.state_dict(), ranks_);
  written_period_ = engine_.period();
}

void Trainer::load_batches() {
  const Program& program = engine_.blueprint().step_program();
  batches_.resize(static_cast<std::size_t>(program.last_micro_batch - program.first_micro_batch));
  const std::int64_t B = job_.computation.B;
  for (std::size_t k = 0; k < batches_.size(); ++k) {
    const auto g = program.first_micro_batch + static_cast<std::int64_t>(k);
    sampler_.fill(batches_[k], state_.samples + g * B, B);
  }
}

void Trainer::step() {
  const auto start = Clock::now();
  load_batches();
  before_ = {state_.step, state_.tokens, state_.samples};
  const std::int64_t step = state_.step + 1;
  const std::int64_t tokens = config_.train.batch_tokens;
  scalars_.inputs.info = {
      .step = state_.updates + 1,
      .seed = config_.train.seed,
      .lr = optim::learning_rate(config_.train.schedule, step, config_.train.steps)};
  scalars_.inputs.batches = batches_;
  scalars_.inputs.loss_tokens = tokens;
  scalars_.inputs.clip = config_.optim.clip;
  scalars_.inputs.clip_scope = config_.optim.clip_scope;
  scalars_.stop_requested = stop_requested();
  scalars_.inputs.spans = trace_->begin(step);
  record_.begin();
  engine_.step(scalars_);
  const double seconds = seconds_since(start);
  record_.end(seconds);
  trace_->end();

  ++result_.steps_done;
  state_.step = step;
  state_.tokens += tokens;
  state_.samples += tokens / job_.computation.T;
  const bool skipped = scalars_.outcome == Outcome::skip;
  state_.updates += skipped ? 0 : 1;
  skipped_in_a_row_ = skipped ? skipped_in_a_row_ + 1 : 0;
  result_.loss = scalars_.loss;
  report_->step({.step = step,
                 .steps = config_.train.steps,
                 .loss = scalars_.loss,
                 .grad_norm = scalars_.grad_norm,
                 .lr = scalars_.inputs.info.lr,
                 .clipped = scalars_.outcome == Outcome::clip_below_one,
                 .skipped = skipped,
                 .tokens = tokens,
                 .tokens_seen = state_.tokens,
                 .seconds = seconds,
                 .memory_bytes = engine_.ledger().peak(Tier())});
  kill_point("train.step");
}

/// The whole validation stream, or as many whole windows as eval_tokens allows.
void Trainer::evaluate() {
  const auto start = Clock::now();
  const std::int64_t T = job_.computation.T, B = job_.computation.B;
  const std::int64_t most = config_.train.eval_tokens,
                     all = data::evaluation_windows(*job_.data.valid, T);
  const std::int64_t windows = most > 0 ? std::min(all, std::max<std::int64_t>(1, most / T)) : all;
  evaluation_batches_.resize(static_cast<std::size_t>(job_.computation.evaluation_G));
  const Program& program = engine_.blueprint().evaluation_program();
  const auto ours =
      std::span<const MicroBatch>(evaluation_batches_)
          .subspan(static_cast<std::size_t>(program.first_micro_batch),
                   static_cast<std::size_t>(program.last_micro_batch - program.first_micro_batch));
  double sum = 0;
  std::int64_t tokens = 0;
  for (std::int64_t first = 0; first < windows;) {
    for (MicroBatch& batch : evaluation_batches_) {
      data::fill_evaluation(*job_.data.valid, T, first, B, batch);
      auto* targets = batch.targets.data<std::int32_t>();
      const std::int64_t allowed = std::clamp<std::int64_t>(windows - first, 0, B) * T;
      std::fill(targets + allowed, targets + B * T, kMasked);
      tokens +=
          std::count_if(targets, targets + B * T, [](std::int32_t t) { return t != kMasked; });
      first += B;
    }
    sum = engine_.evaluate(sum, ours);
  }
  result_.validation_loss = sum / static_cast<double>(tokens);
  evaluated_step_ = state_.step;
  report_->evaluation(state_.step, *result_.validation_loss, tokens, seconds_since(start));
}

void Trainer::save() {
  if (saved_step_ == state_.step) {
    return;
  }
  if (written_period_ != engine_.period()) {
    make_writer();
  }
  writer_->begin(state_);
  engine_.snapshot(*writer_);
  result_.checkpoint = writer_->commit();
  saved_step_ = state_.step;
}

/// A skipped step changed no weight, so what was before it can be saved. Not what is after it: each
/// start would then save one step more, until no good checkpoint is kept.
void Trainer::stop_here() {
  const NonfiniteStep at{state_.step, scalars_.loss, scalars_.grad_norm};
  if (immediate()) {
    stop_at_nonfinite(at, {});
  }
  std::tie(state_.step, state_.tokens, state_.samples) = before_;
  save();
  stop_at_nonfinite(at, result_.checkpoint);
}

TrainResult Trainer::run() {
  while (!result_.interrupted && state_.step < config_.train.steps) {
    step();
    const bool stop = result_.interrupted = scalars_.stop_requested;
    if (scalars_.outcome == Outcome::skip && (config_.train.on_nonfinite == OnNonfinite::stop ||
                                              skipped_in_a_row_ == kHopeless || immediate())) {
      stop_here();
    }
    if (ranks_.size() > 1 && due(config_.checksum_every)) {
      parallel::require_equal_replicas(ranks_, engine_.replica_hash(), state_.step);
    }
    if (!stop && job_.data.valid && due(config_.train.eval_every)) {
      evaluate();
    }
    if (stop || due(config_.checkpoint.every)) {
      save();
    }
  }
  if (!result_.interrupted && job_.data.valid && evaluated_step_ != state_.step) {
    evaluate();
  }
  save();
  result_.step = state_.step;
  const offload::TierPlan& planned = engine_.blueprint().plan().tiers.at(Tier());
  result_.planned_bytes = planned.peak_bytes;
  result_.ledger_peak_bytes = engine_.ledger().peak(Tier());
  result_.different_peaks = different_peaks(planned, engine_.ledger());
  result_.resident_peak_bytes = resident_set().peak_bytes;
  result_.offloaded = record_.outcome();
  result_.model_bytes = gather_model_bytes(ranks_, engine_.ledger());
  return result_;
}

}  // namespace

TrainResult run_training(Job job,
                         Communicator& ranks,
                         RunDir* dir,
                         const std::filesystem::path& checkpoint) {
  std::optional<Trainer> trainer;
  together(ranks, [&] { trainer.emplace(std::move(job), ranks, dir, checkpoint); });
  return trainer->run();
}

}  // namespace strata::launch
