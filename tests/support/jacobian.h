#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/graph.h"
#include "tests/support/reference_ops.h"

namespace strata::tests {

/// Largest error allowed, relative to the largest magnitude of the array compared (at least 1).
double tolerance(DType dtype);

/// A micro-batch of random tokens in [0, V): a document starts in the middle of every row but the
/// first, about a fifth of the targets is masked, so is every target of the last row.
MicroBatch make_batch(std::int64_t B, std::int64_t T, std::int64_t V, std::uint64_t seed = 1);

/// One op, its formula and what it runs on.
struct OpCase {
  std::int64_t B = 3, T = 13;
  std::function<void(Graph&)> record;  // appends one node
  Reference reference;
  MicroBatch batch;
  bool training = false;
  bool has_backward = true;
  double spread = 1.0;         // operands are uniform in [-spread, spread]
  bool uses_bf16_dot = false;  // bf16 rounds as the machine's dot products do: bits differ by level
  bool multiplies = false;     // f32 products are our own on AVX-512, the library's elsewhere: also
};

/// What a run of the node left behind.
struct OpOutcome {
  std::vector<Tensor> out, grad_in;
  double loss = 0;  // added by a loss node, in forward and in backward
  double evaluated_loss = 0;
};

/// Variations of a run.
struct OpRun {
  DType dtype = DType::f32;
  Accumulate mode = Accumulate::overwrite;
  int without_sink = -1;  // this operand's gradient is wanted by nobody
  int poisoned_in = -1;   // this operand, or this result, is NaN by the time of backward
  int poisoned_out = -1;
  bool round_operands = false;  // to bf16, so that two dtypes see the same numbers
};

/// Records the op and runs forward and backward with poisoned scratch and results, and with nothing
/// bound in backward that the node does not keep.
OpOutcome run_op(const OpCase& op, const OpRun& run = {});

/// Checks forward and every gradient against the float64 reference, both accumulation modes, empty
/// sinks, that backward reads what the node keeps and nothing else, equal bits on 1, 2, 3 threads
/// and on every instruction set (tolerance where the case says that bits differ by level), and bf16
/// against f32.
void expect_op_matches_reference(const OpCase& op);

}  // namespace strata::tests
