#include "tests/support/jacobian.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "core/runtime.h"

namespace strata::tests {

namespace {

constexpr double kLossScale = 0.37, kLossBefore = 1.5;
constexpr std::size_t kGuardBytes = 64;

/// Uniform in [-spread, spread], a float, and a bf16 where asked.
Array random_array(std::int64_t numel, double spread, bool round, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<float> uniform(-1.f, 1.f);
  Array a(static_cast<std::size_t>(numel));
  for (double& x : a) {
    const float f = uniform(engine) * static_cast<float>(spread);
    x = round ? to_float(to_bf16(f)) : f;
  }
  return a;
}

Tensor to_tensor(const Array& from, DType dtype, const Shape& shape) {
  Tensor t = Tensor::zeros(dtype, shape);
  for (std::size_t i = 0; i < from.size(); ++i) {
    const auto x = static_cast<float>(from[i]);
    if (dtype == DType::f32) {
      t.data<float>()[i] = x;
    } else {
      t.data<bf16>()[i] = to_bf16(x);
    }
  }
  return t;
}

Array to_array(const Tensor& t) {
  Array a;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    a.push_back(t.dtype() == DType::f32 ? t.data<float>()[i] : to_float(t.data<bf16>()[i]));
  }
  return a;
}

/// All bits set: NaN in every float type, so that reading or leaving an element shows.
void poison(const Tensor& t) {
  std::memset(t.bytes(), 0xff, static_cast<std::size_t>(t.size_bytes()));
}

Tensor poisoned(DType dtype, const Shape& shape) {
  Tensor t = Tensor::zeros(dtype, shape);
  poison(t);
  return t;
}

/// Poisoned scratch of exactly the bytes a node asked for, then bytes that nobody may touch.
class GuardedScratch {
 public:
  explicit GuardedScratch(std::int64_t size_bytes)
      : size_(static_cast<std::size_t>(size_bytes)),
        memory_(poisoned(DType::u8, {size_bytes + static_cast<std::int64_t>(kGuardBytes)})) {}
  std::span<std::byte> bytes() const { return {memory_.bytes(), size_}; }
  bool intact() const {
    const std::byte* const guard = memory_.bytes() + size_;
    return std::all_of(
        guard, guard + kGuardBytes, [](std::byte b) { return b == std::byte{0xff}; });
  }

 private:
  std::size_t size_;
  Tensor memory_;
};

bool kept(std::uint32_t mask, std::size_t i) {
  return ((mask >> i) & 1u) != 0;
}

std::vector<Tensor> only(const std::vector<Tensor>& all, std::uint32_t mask) {
  std::vector<Tensor> some(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    some[i] = kept(mask, i) ? all[i] : Tensor();
  }
  return some;
}

Graph record(const OpCase& op, DType dtype) {
  Graph graph(op.B, op.T, dtype);
  op.record(graph);
  return graph;
}

Arrays operands_of(const OpCase& op, const Graph& graph, bool round) {
  Arrays operands;
  for (const Value v : graph.nodes()[0].in) {
    operands.push_back(
        random_array(graph.shape(v).numel(), op.spread, round, 100 + operands.size()));
  }
  return operands;
}

Arrays upstream_of(const Graph& graph, bool round) {
  Arrays upstream;
  for (const Value v : graph.nodes()[0].out) {
    const bool wanted = graph.info(v).wants_grad;
    upstream.push_back(
        random_array(wanted ? graph.shape(v).numel() : 0, 1.0, round, 200 + upstream.size()));
  }
  return upstream;
}

/// What stands in the sinks before a run that adds.
Array previous_of(std::size_t operand, std::int64_t numel) {
  return random_array(numel, 1.0, true, 300 + operand);
}

DType grad_dtype(const Graph& graph, Value operand) {
  return graph.info(operand).kind == ValueKind::param ? DType::f32 : graph.dtype();
}

std::vector<GradSink> make_sinks(const Graph& graph, const OpRun& run) {
  std::vector<GradSink> sinks;
  for (const Value v : graph.nodes()[0].in) {
    const std::size_t i = sinks.size();
    const DType dtype = grad_dtype(graph, v);
    const Shape& shape = graph.shape(v);
    const Tensor tensor = run.mode == Accumulate::add
                              ? to_tensor(previous_of(i, shape.numel()), dtype, shape)
                              : poisoned(dtype, shape);
    sinks.push_back({static_cast<int>(i) == run.without_sink ? Tensor() : tensor, run.mode});
  }
  return sinks;
}

double largest(const Array& a) {
  double top = 1.0;
  for (const double x : a) {
    top = std::max(top, std::fabs(x));
  }
  return top;
}

void expect_close(const Array& got, const Array& want, double allowed, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const double limit = allowed * largest(want);
  for (std::size_t i = 0; i < got.size(); ++i) {
    // Negated, so that NaN fails.
    ASSERT_FALSE(!(std::fabs(got[i] - want[i]) <= limit))
        << what << "[" << i << "] = " << got[i] << ", needed " << want[i] << " +- " << limit;
  }
}

void expect_same_bytes(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.size_bytes(), b.size_bytes()) << what;
  if (a) {
    ASSERT_EQ(std::memcmp(a.bytes(), b.bytes(), static_cast<std::size_t>(a.size_bytes())), 0)
        << what;
  }
}

void expect_same_bits(const OpOutcome& got, const OpOutcome& want, const std::string& where) {
  for (std::size_t i = 0; i < want.out.size(); ++i) {
    expect_same_bytes(got.out[i], want.out[i], where + ": out" + std::to_string(i));
  }
  for (std::size_t i = 0; i < want.grad_in.size(); ++i) {
    expect_same_bytes(got.grad_in[i], want.grad_in[i], where + ": grad" + std::to_string(i));
  }
  EXPECT_EQ(got.loss, want.loss) << where;
  EXPECT_EQ(got.evaluated_loss, want.evaluated_loss) << where;
}

/// upstream * results: the scalar whose gradient the backward computes.
double contract(const OpCase& op,
                const Node& node,
                const Arrays& operands,
                const Arrays& upstream) {
  const Arrays results = op.reference(operands, op.batch);
  if (node.is_loss) {
    return kLossScale * results[0][0];
  }
  double sum = 0;
  for (std::size_t r = 0; r < results.size(); ++r) {
    for (std::size_t i = 0; i < results[r].size(); ++i) {
      sum += upstream[r][i] * results[r][i];
    }
  }
  return sum;
}

void expect_gradient(const OpCase& op, const Graph& graph, std::size_t operand, const Array& got) {
  constexpr double kStep = 1e-5;
  constexpr std::size_t kMost = 100;  // elements differenced; a prime stride over larger operands
  const Node& node = graph.nodes()[0];
  Arrays operands = operands_of(op, graph, false);
  const Arrays upstream = upstream_of(graph, false);
  Array& x = operands[operand];
  ASSERT_EQ(got.size(), x.size());
  const std::size_t stride = x.size() <= kMost ? 1 : (x.size() / kMost) | 1u;
  Array some, want;
  for (std::size_t i = 0; i < x.size(); i += stride) {
    const double before = x[i];
    x[i] = before + kStep;
    const double up = contract(op, node, operands, upstream);
    x[i] = before - kStep;
    const double down = contract(op, node, operands, upstream);
    x[i] = before;
    some.push_back(got[i]);
    want.push_back((up - down) / (2 * kStep));
  }
  for (const double g : got) {
    ASSERT_TRUE(std::isfinite(g)) << "an element of gradient " << operand << " was not written";
  }
  expect_close(some, want, tolerance(DType::f32), "gradient " + std::to_string(operand));
}

void expect_forward(const OpCase& op, const Graph& graph, const OpOutcome& outcome) {
  const Arrays want = op.reference(operands_of(op, graph, false), op.batch);
  if (graph.nodes()[0].is_loss) {
    expect_close({outcome.evaluated_loss}, want[0], tolerance(DType::f32), "evaluated loss");
    expect_close({outcome.loss}, want[0], tolerance(DType::f32), "loss");
    return;
  }
  for (std::size_t i = 0; i < want.size(); ++i) {
    expect_close(
        to_array(outcome.out[i]), want[i], tolerance(DType::f32), "result " + std::to_string(i));
  }
}

void expect_sink_modes(const OpCase& op, const OpOutcome& overwritten) {
  const OpOutcome added = run_op(op, {.mode = Accumulate::add});
  for (std::size_t i = 0; i < added.grad_in.size(); ++i) {
    Array want = to_array(overwritten.grad_in[i]);
    const Array previous = previous_of(i, overwritten.grad_in[i].numel());
    std::transform(want.begin(), want.end(), previous.begin(), want.begin(), std::plus<>());
    expect_close(to_array(added.grad_in[i]),
                 want,
                 tolerance(DType::f32),
                 "gradient " + std::to_string(i) + " added");
  }
  for (std::size_t i = 0; i < overwritten.grad_in.size(); ++i) {
    OpOutcome without = run_op(op, {.without_sink = static_cast<int>(i)});
    EXPECT_FALSE(without.grad_in[i]);
    without.grad_in[i] = overwritten.grad_in[i];
    expect_same_bits(without, overwritten, "without sink " + std::to_string(i));
  }
}

bool same_gradients(const OpOutcome& a, const OpOutcome& b) {
  for (std::size_t i = 0; i < a.grad_in.size(); ++i) {
    const auto size = static_cast<std::size_t>(a.grad_in[i].size_bytes());
    if (std::memcmp(a.grad_in[i].bytes(), b.grad_in[i].bytes(), size) != 0) {
      return false;
    }
  }
  return true;
}

/// A mask that is too narrow shows as a null tensor, one that is too wide here.
void expect_keeps_are_needed(const OpCase& op, const Node& node, const OpOutcome& outcome) {
  for (int i = 0; i < 32; ++i) {
    if (kept(node.keeps_in, static_cast<std::size_t>(i))) {
      EXPECT_FALSE(same_gradients(run_op(op, {.poisoned_in = i}), outcome))
          << "backward does not need operand " << i;
    }
    if (kept(node.keeps_out, static_cast<std::size_t>(i))) {
      EXPECT_FALSE(same_gradients(run_op(op, {.poisoned_out = i}), outcome))
          << "backward does not need result " << i;
    }
  }
}

void expect_near(const OpOutcome& got,
                 const OpOutcome& want,
                 DType dtype,
                 const std::string& where) {
  for (std::size_t i = 0; i < want.out.size(); ++i) {
    expect_close(to_array(got.out[i]), to_array(want.out[i]), tolerance(dtype), where + ": out");
  }
  for (std::size_t i = 0; i < want.grad_in.size(); ++i) {
    expect_close(
        to_array(got.grad_in[i]), to_array(want.grad_in[i]), tolerance(dtype), where + ": grad");
  }
}

void expect_machine_independence(const OpCase& op, DType dtype) {
  const int threads_before = thread_count();
  const auto level_before = cpu::isa_level();
  set_thread_count(1);
  const OpOutcome want = run_op(op, {.dtype = dtype});
  const auto expect_same = [&] {
    const OpOutcome got = run_op(op, {.dtype = dtype});
    const std::string where = std::string(to_string(dtype)) + " on " +
                              std::to_string(thread_count()) + " threads, " +
                              cpu::to_string(cpu::isa_level());
    const bool by_level = dtype == DType::bf16 ? op.uses_bf16_dot : op.multiplies;
    if (by_level && cpu::isa_level() != level_before) {
      return expect_near(got, want, dtype, where);
    }
    expect_same_bits(got, want, where);
  };
  for (int level = 0; level < static_cast<int>(level_before); ++level) {
    cpu::force_isa_level(static_cast<cpu::IsaLevel>(level));
    expect_same();
  }
  cpu::force_isa_level(level_before);
  for (const int threads : {2, 3}) {
    set_thread_count(threads);
    expect_same();
  }
  set_thread_count(threads_before);
}

void expect_bf16_near_f32(const OpCase& op) {
  for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
    const OpOutcome want = run_op(op, {.mode = mode, .round_operands = true});
    const OpOutcome got = run_op(op, {.dtype = DType::bf16, .mode = mode, .round_operands = true});
    const double allowed = tolerance(DType::bf16);
    for (std::size_t i = 0; i < want.out.size(); ++i) {
      expect_close(
          to_array(got.out[i]), to_array(want.out[i]), allowed, "bf16 result " + std::to_string(i));
    }
    for (std::size_t i = 0; i < want.grad_in.size(); ++i) {
      expect_close(to_array(got.grad_in[i]),
                   to_array(want.grad_in[i]),
                   allowed,
                   "bf16 gradient " + std::to_string(i));
    }
    expect_close({got.loss}, {want.loss}, allowed, "bf16 loss");
  }
}

}  // namespace

double tolerance(DType dtype) {
  return dtype == DType::bf16 ? 1.5e-2 : 4e-6;
}

MicroBatch make_batch(std::int64_t B, std::int64_t T, std::int64_t V, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  MicroBatch batch;
  for (Tensor* t : {&batch.tokens, &batch.targets, &batch.positions, &batch.documents}) {
    *t = Tensor::zeros(DType::i32, {B, T});
  }
  for (std::int64_t i = 0; i < B * T; ++i) {
    const std::int64_t b = i / T, t = i % T;
    const std::int64_t second = b == 0 ? T : T / 2 + b % 2;  // where the second document starts
    const std::int64_t start = t >= second ? second : 0;
    const auto random = [&] {
      return static_cast<std::int32_t>(engine() % static_cast<std::uint64_t>(V));
    };
    batch.tokens.data<std::int32_t>()[i] = random();
    batch.targets.data<std::int32_t>()[i] = b == B - 1 || engine() % 5 == 0 ? kMasked : random();
    batch.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(t - start);
    batch.documents.data<std::int32_t>()[i] = static_cast<std::int32_t>(start);
  }
  return batch;
}

OpOutcome run_op(const OpCase& op, const OpRun& run) {
  const Graph graph = record(op, run.dtype);
  const Node& node = graph.nodes().back();
  std::vector<Tensor> in, grad_out;
  OpOutcome outcome;
  outcome.loss = outcome.evaluated_loss = kLossBefore;
  const RunContext evaluation{
      &op.batch, 7, 5, 2, op.training, kLossScale, &outcome.evaluated_loss, &compute_stream()};
  RunContext training = evaluation;
  training.loss_sum = &outcome.loss;

  const Arrays operands = operands_of(op, graph, run.round_operands);
  for (std::size_t i = 0; i < node.in.size(); ++i) {
    in.push_back(to_tensor(operands[i], graph.dtype(), graph.shape(node.in[i])));
  }
  for (const Value v : node.out) {
    outcome.out.push_back(poisoned(graph.info(v).dtype, graph.shape(v)));
  }
  const GuardedScratch forward(node.forward_scratch_bytes);
  node.forward({in, outcome.out, forward.bytes(), evaluation});
  EXPECT_TRUE(forward.intact()) << node.op << ": forward wrote past its scratch";

  if (op.has_backward) {
    const Arrays upstream = upstream_of(graph, run.round_operands);
    for (std::size_t i = 0; i < node.out.size(); ++i) {
      const ValueInfo& info = graph.info(node.out[i]);
      grad_out.push_back(info.wants_grad ? to_tensor(upstream[i], info.dtype, info.shape)
                                         : Tensor());
    }
    const std::vector<GradSink> sinks = make_sinks(graph, run);
    if (run.poisoned_in >= 0) {
      poison(in[static_cast<std::size_t>(run.poisoned_in)]);
    }
    if (run.poisoned_out >= 0) {
      poison(outcome.out[static_cast<std::size_t>(run.poisoned_out)]);
    }
    const GuardedScratch backward(node.backward_scratch_bytes);
    node.backward({only(in, node.keeps_in),
                   only(outcome.out, node.keeps_out),
                   grad_out,
                   sinks,
                   backward.bytes(),
                   training});
    EXPECT_TRUE(backward.intact()) << node.op << ": backward wrote past its scratch";
    for (const GradSink& sink : sinks) {
      outcome.grad_in.push_back(sink.tensor);
    }
  }
  outcome.loss -= kLossBefore;
  outcome.evaluated_loss -= kLossBefore;
  return outcome;
}

void expect_op_matches_reference(const OpCase& op) {
  const Graph graph = record(op, DType::f32);
  ASSERT_EQ(graph.nodes().size(), 1u);
  const OpOutcome outcome = run_op(op);
  expect_forward(op, graph, outcome);
  for (std::size_t i = 0; i < outcome.grad_in.size(); ++i) {
    expect_gradient(op, graph, i, to_array(outcome.grad_in[i]));
  }
  expect_sink_modes(op, outcome);
  expect_keeps_are_needed(op, graph.nodes()[0], outcome);
  expect_machine_independence(op, DType::f32);
  expect_machine_independence(op, DType::bf16);
  expect_bf16_near_f32(op);
}

}  // namespace strata::tests
