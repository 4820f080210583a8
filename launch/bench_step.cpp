// strata bench step: training steps of a preset on random tokens, against the matrix products that
// they cannot do without.
#include <algorithm>
#include <cstdio>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "core/philox.h"
#include "core/span_log.h"
#include "launch/activations.h"
#include "launch/args.h"
#include "launch/bench.h"
#include "launch/ranks.h"
#include "launch/report.h"
#include "models/model.h"

namespace strata::launch {
namespace {

using nlohmann::json;

constexpr Tier kDevice{TierKind::device, 0};
constexpr int kWarmUp = 2;

Args parse(Words words) {
  using enum CommandOption::Kind;
  return Args("bench step",
              words,
              {},
              {{"--model", "gpt2-124m", "preset"},
               {"--batch", "4", "sequences of a micro-batch", integer},
               {"--seq", "256", "tokens of a sequence", integer},
               {"--micro-batches", "1", "of a step", integer},
               {"--dtype", "f32", "f32 or bf16"},
               {"--method", "adamw", "optimizer"},
               {"--recompute", "none", "as memory.recompute; auto: what fits the free memory"},
               {"--steps", "10", "steps timed, after two that are not", integer},
               {"--json", "", "print one JSON object", flag}});
}

Computation computation_of(const Args& args) {
  Computation c;
  c.model = models::preset(args.text("--model"));
  c.model.dropout = 0;
  c.dtype = dtype_of_word("bench step", args.text("--dtype"));
  c.method = args.text("--method");
  const auto count = [&](const std::string& name, std::int64_t most) {
    const std::int64_t value = args.integer(name);
    if (value < 1 || value > most) {
      throw Error(Errc::config,
                  fmt::format("bench step: {} needs 1 to {}, got {}", name, most, value));
    }
    return value;
  };
  constexpr std::int64_t kMost = 1 << 20;
  c.B = count("--batch", kMost);
  c.T = count("--seq", c.model.family == models::Family::gpt2 ? c.model.max_T : kMost);
  c.G = count("--micro-batches", kMost);
  count("--steps", kMost);
  return c;
}

MemorySettings memory_of(const Args& args) {
  const auto recompute = parse_recompute(args.text("--recompute"));
  if (!recompute) {
    throw Error(Errc::config,
                fmt::format("bench step: --recompute needs {}, got '{}'",
                            kRecomputeTexts,
                            args.text("--recompute")));
  }
  return {.recompute = *recompute};
}

std::vector<MicroBatch> random_batches(const Computation& c) {
  std::vector<MicroBatch> batches(static_cast<std::size_t>(c.G));
  const RandomKey key{1, RandomUse::sampling, 0, 0};
  std::uint64_t drawn = 0;
  for (MicroBatch& batch : batches) {
    for (Tensor* t : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
      *t = Tensor::zeros(DType::i32, {c.B, c.T});
    }
    for (std::int64_t i = 0; i < c.B * c.T; ++i) {
      const auto words = key.words(drawn++);
      const auto V = static_cast<std::uint32_t>(c.model.V);
      batch.tokens.data<std::int32_t>()[i] = static_cast<std::int32_t>(words[0] % V);
      batch.targets.data<std::int32_t>()[i] = static_cast<std::int32_t>(words[1] % V);
      batch.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % c.T);
    }
  }
  return batches;
}

/// Products of one step: what ran between two counts.
std::vector<ProductUse> difference(std::vector<ProductUse> after,
                                   const std::vector<ProductUse>& before) {
  for (std::size_t i = 0; i < before.size(); ++i) {  // counts are kept in one order
    after[i].runs -= before[i].runs;
    after[i].nanoseconds -= before[i].nanoseconds;
  }
  std::erase_if(after, [](const ProductUse& use) { return use.runs == 0; });
  return after;
}

/// Milliseconds a step by what the spans name.
json times_by_name(const SpanLog& log, Span::Kind kind, std::int64_t steps) {
  std::map<std::string, double> ms;
  for (const Span& span : log.spans()) {
    if (span.kind == kind) {
      std::string name(span.name);
      if (!span.direction.empty()) {
        name += fmt::format(".{}", span.direction);
      }
      ms[name] +=
          static_cast<double>(span.end_ns - span.begin_ns) * 1e-6 / static_cast<double>(steps);
    }
  }
  return ms;
}

const char* word_of(MatmulForm form) {
  constexpr const char* words[] = {"ab", "abt", "atb"};
  return words[static_cast<std::size_t>(form)];
}

/// Each product of a step: how fast inside the step, and how fast alone.
json products_json(std::span<const ProductUse> in_steps,
                   const ProductRate& alone,
                   std::int64_t steps) {
  json list = json::array();
  for (std::size_t i = 0; i < in_steps.size(); ++i) {
    const ProductUse& use = in_steps[i];
    const MatmulShape& s = use.shape;
    const double flops = product_flops(s);
    const auto runs = static_cast<double>(use.runs);
    const auto ns = static_cast<double>(use.nanoseconds);
    list.push_back({{"m", s.m},
                    {"n", s.n},
                    {"k", s.k},
                    {"form", word_of(s.form)},
                    {"out", std::string(to_string(s.out))},
                    {"accumulate", use.mode == Accumulate::add},
                    {"runs_per_step", runs / static_cast<double>(steps)},
                    {"ms_per_step", ns * 1e-6 / static_cast<double>(steps)},
                    {"step_gflops", runs * flops / ns},
                    {"alone_gflops", flops / alone.best[i] * 1e-9}});
  }
  return list;
}

std::int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

/// A model in training on random tokens.
class StepBench {
 public:
  StepBench(const Computation& c, Planned planned, std::int64_t steps, Communicator& ranks)
      : computation_(c),
        steps_(steps),
        batches_(random_batches(c)),
        engine_(std::move(planned.blueprint), planned.budgets, ranks) {
    engine_.start(1, {});
  }
  json run();

 private:
  void step() {
    scalars_.inputs.info = {.step = ++done_, .seed = 1, .lr = 1e-4};
    const Program& program = engine_.blueprint().step_program();
    const auto first = static_cast<std::size_t>(program.first_micro_batch);
    scalars_.inputs.batches = std::span<const MicroBatch>(batches_).subspan(
        first, static_cast<std::size_t>(program.last_micro_batch) - first);
    scalars_.inputs.loss_tokens = tokens();
    scalars_.inputs.clip = 1.0;
    engine_.step(scalars_);
  }
  std::int64_t tokens() const { return computation_.G * computation_.B * computation_.T; }

  Computation computation_;
  std::int64_t steps_;
  std::vector<MicroBatch> batches_;
  Engine engine_;
  StepScalars scalars_;
  std::int64_t done_ = 0;
};

json StepBench::run() {
  step();
  const std::vector<ProductUse> before = product_uses();
  step();
  const std::vector<ProductUse> products = difference(product_uses(), before);
  static_assert(kWarmUp == 2);
  const ResidentSet resident = resident_set();  // before the products take memory of their own
  const double rate_before = product_rate(products).gflops();
  const std::vector<ProductUse> counted = product_uses();
  constexpr std::size_t kSpansAStep = 1 << 16;
  SpanLog log(kSpansAStep * static_cast<std::size_t>(steps_));
  scalars_.inputs.spans = &log;
  const std::int64_t faults = page_faults();
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < steps_; ++i) {
    seconds.push_back(seconds_of([&] { step(); }));
  }
  const std::int64_t new_faults = page_faults() - faults;
  const std::vector<ProductUse> in_steps = difference(product_uses(), counted);
  const ProductRate after = product_rate(products);
  const double gemm = (rate_before + after.gflops()) / 2;
  const double middle = median(seconds);
  const double achieved = models::training_flops_per_token(computation_.model, computation_.T) *
                          static_cast<double>(tokens()) / middle * 1e-9;
  const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
  return {{"tokens_per_second", static_cast<double>(tokens()) / middle},
          {"step_seconds", {{"median", middle}, {"min", *least}, {"max", *most}}},
          {"achieved_gflops", achieved},
          {"gemm_gflops", gemm},
          {"gemm_gflops_before_after", {rate_before, after.gflops()}},
          {"fraction_of_gemm", achieved / gemm},
          {"product_seconds", after.flops / gemm * 1e-9},
          {"peak_bytes", engine_.ledger().peak(kDevice)},
          {"planned_bytes", engine_.blueprint().plan().tiers.at(kDevice).peak_bytes},
          {"peak_rss_bytes", resident.peak_bytes},
          {"page_faults_per_step", static_cast<double>(new_faults) / static_cast<double>(steps_)},
          {"phase_ms", times_by_name(log, Span::Kind::instruction, steps_)},
          {"op_ms", times_by_name(log, Span::Kind::op, steps_)},
          {"products", products_json(in_steps, after, steps_)},
          {"spans_lost", log.lost()},
          {"loss", scalars_.loss}};
}

int run_on(Communicator& ranks, const Args& args) {
  Computation c;
  together(ranks, [&] { c = computation_of(args); });
  share_cores(ranks, 0);
  c.place = place_of(ranks);
  Planned planned = plan_activations(c, memory_of(args));
  const std::string recompute = offload::to_string(planned.blueprint->computation().recompute);
  const double extra = planned.blueprint->recompute_flops() / planned.blueprint->step_flops();
  json report = StepBench(c, std::move(planned), args.integer("--steps"), ranks).run();
  report["recompute"] = recompute;
  report["recompute_percent"] = 100 * extra;
  if (ranks.rank() > 0) {
    return 0;
  }
  report["ranks"] = ranks.size();
  report["model"] = args.text("--model");
  report["batch"] = c.B;
  report["seq"] = c.T;
  report["micro_batches"] = c.G;
  report["dtype"] = args.text("--dtype");
  report["method"] = c.method;
  report["steps"] = args.integer("--steps");
  report["parameters"] = models::parameter_count(c.model);
  report["machine"] = machine_json();
  if (args.flag("--json")) {
    std::printf("%s\n", report.dump().c_str());
  } else {
    print_step_report(report);
  }
  return 0;
}

}  // namespace

int bench_step(Words words) {
  const Args args = parse(words);
  if (args.help()) {
    return 0;
  }
  constexpr double kTimeoutSeconds = 600;
  return with_ranks(kTimeoutSeconds, [&](Communicator& ranks) { return run_on(ranks, args); });
}

}  // namespace strata::launch
