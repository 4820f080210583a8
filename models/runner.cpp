#include "models/runner.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/runtime.h"

namespace strata::models {
namespace {

using Use = BlockProgram::Use;

std::int64_t as_pack(std::int64_t size_bytes) {
  return pack_layout({&size_bytes, 1}).size_bytes;
}

PackLayout layout_of(std::span<const Shape> shapes, DType dtype) {
  std::vector<std::int64_t> bytes;
  for (const Shape& shape : shapes) {
    bytes.push_back(shape.numel() * size_bytes(dtype));
  }
  return pack_layout(bytes);
}

/// View of one tensor of a pack.
Tensor view(std::span<std::byte> pack,
            const PackLayout& layout,
            std::span<const Shape> shapes,
            std::size_t at,
            DType dtype) {
  STRATA_ASSERT(static_cast<std::int64_t>(pack.size()) >= layout.size_bytes && at < shapes.size());
  return {pack.data() + layout.offset[at], dtype, shapes[at]};
}

}  // namespace

struct GraphRunner::Impl {
  /// What a block's parameters need, computed once.
  struct Stage {
    const BlockProgram* program = nullptr;
    BlockProgram::Gradients wanted;
    std::vector<BorrowedParam> borrows;
    std::vector<Shape> shapes, borrowed_shapes;
    PackLayout weights;          // own, in dtype
    PackLayout grads, borrowed;  // f32 accumulators
  };

  using Key = std::tuple<std::string, BlockProgram::Keep, BlockProgram::Gradients>;

  std::span<const std::unique_ptr<Block>> blocks;
  RunnerConfig config;
  std::map<Key, std::unique_ptr<BlockProgram>> programs;
  std::vector<Stage> stages;
  // Views of the instruction under way; members so that a step allocates nothing.
  std::vector<Tensor> params;
  std::vector<GradSink> sinks;

  int last() const { return static_cast<int>(stages.size()) - 1; }
  const Stage& stage(int block) const { return stages.at(static_cast<std::size_t>(block)); }
  std::int64_t boundary_bytes() const {
    return config.B * config.T * config.C * size_bytes(config.dtype);
  }

  const BlockProgram& program_for(int block, BlockProgram::Gradients wanted);
  void bind_params(int block, const Held& packs);
  void bind_sinks(const Instruction& i, const Held& packs);
  BlockProgram::Bytes bytes(const Instruction& i, const Held& packs);
  RunContext context(const Instruction& i, StepScalars& scalars) const;
  void run_backward(const Instruction& i,
                    const Held& packs,
                    const RunContext& run,
                    BlockProgram::Bytes b);
};

GraphRunner::GraphRunner(std::span<const std::unique_ptr<Block>> blocks, const RunnerConfig& config)
    : impl_(std::make_unique<Impl>()) {
  STRATA_ASSERT(blocks.size() >= 2);
  impl_->blocks = blocks;
  impl_->config = config;
  STRATA_ASSERT(config.keep.empty() || config.keep.size() == blocks.size());
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const auto& block = blocks[b];
    Impl::Stage stage;
    stage.program = &impl_->program_for(static_cast<int>(b), {});
    stage.borrows = block->spec().borrows;
    for (const ParamSpec& param : block->spec().params) {
      stage.shapes.push_back(param.info.shape);
    }
    for (const BorrowedParam& borrowed : stage.borrows) {
      stage.borrowed_shapes.push_back(borrowed.shape);
    }
    stage.weights = layout_of(stage.shapes, config.dtype);
    stage.grads = layout_of(stage.shapes, DType::f32);
    stage.borrowed = layout_of(stage.borrowed_shapes, DType::f32);
    impl_->stages.push_back(std::move(stage));
  }
}

GraphRunner::~GraphRunner() = default;

/// Blocks of one kind share programs.
const BlockProgram& GraphRunner::Impl::program_for(int block, BlockProgram::Gradients wanted) {
  const auto b = static_cast<std::size_t>(block);
  const auto keep = config.keep.empty() ? BlockProgram::Keep::all : config.keep[b];
  auto& program = programs[{blocks[b]->kind(), keep, wanted}];
  if (program == nullptr) {
    const bool decoder = b > 0 && b + 1 < blocks.size();
    program = std::make_unique<BlockProgram>(*blocks[b],
                                             config.B,
                                             config.T,
                                             config.C,
                                             config.dtype,
                                             config.use,
                                             keep,
                                             wanted,
                                             decoder ? config.codec : ActivationCodec::exact);
  }
  return *program;
}

void GraphRunner::freeze(std::span<const int> frozen) {
  const auto trains = [&](int block) { return !std::ranges::binary_search(frozen, block); };
  int lowest = 0;
  while (!trains(lowest)) {
    ++lowest;
  }
  for (int b = 0; b <= impl_->last(); ++b) {
    Impl::Stage& stage = impl_->stages[static_cast<std::size_t>(b)];
    const bool lends =
        std::ranges::any_of(stage.borrows, [&](const BorrowedParam& p) { return trains(p.block); });
    stage.wanted = {.params = trains(b), .borrowed = lends, .input = b > lowest};
    stage.program = &impl_->program_for(b, stage.wanted);
  }
}

PackSizes GraphRunner::pack_sizes() const {
  using enum PackClass;
  const Impl& m = *impl_;
  const bool train = m.config.use == Use::train;
  PackSizes sizes;
  for (int b = 0; b <= m.last(); ++b) {
    const Impl::Stage& stage = m.stage(b);
    sizes[{weights, b}] = stage.weights.size_bytes;
    if (train) {
      sizes[{grads, b}] = stage.grads.size_bytes;
      if (!stage.borrows.empty()) {
        sizes[{borrowed_grads, b}] = stage.borrowed.size_bytes;
      }
    }
    for (int mb = m.config.first_micro_batch; mb < m.config.last_micro_batch; ++mb) {
      if (b > 0) {
        sizes[{boundary, b, mb}] = as_pack(m.boundary_bytes());
      }
      if (train) {
        sizes[{saved, b, mb}] = as_pack(stage.program->saved_bytes());
      }
      if (train && mb > m.config.first_micro_batch) {  // partial sums, where the order has several
        sizes[{grads, b, mb}] = stage.grads.size_bytes;
        if (!stage.borrows.empty()) {
          sizes[{borrowed_grads, b, mb}] = stage.borrowed.size_bytes;
        }
      }
      if (train && b > 0) {
        sizes[{boundary_grad, b, mb}] = as_pack(m.boundary_bytes());
      }
      if (b == m.last() && m.config.use == Use::logits) {
        sizes[{boundary, b + 1, mb}] = as_pack(stage.program->output_bytes());
      }
    }
  }
  const std::string head = m.blocks.back()->kind();
  std::int64_t of_head = 0, of_others = 0;
  for (const auto& [key, program] : m.programs) {
    std::int64_t& most = std::get<std::string>(key) == head ? of_head : of_others;
    most = std::max(most, program->workspace_bytes());
  }
  sizes[{workspace}] = as_pack(of_others);
  sizes[{workspace, m.last()}] = as_pack(of_head);
  return sizes;
}

const BlockProgram& GraphRunner::block_program(int block) const {
  return *impl_->stage(block).program;
}

const PackLayout& GraphRunner::weights_layout(int block) const {
  return impl_->stage(block).weights;
}

std::vector<Borrow> GraphRunner::borrows() const {
  std::vector<Borrow> all;
  for (int b = 0; b <= impl_->last(); ++b) {
    for (const BorrowedParam& borrowed : impl_->stage(b).borrows) {
      const Borrow borrow{b, borrowed.block};
      if (std::find(all.begin(), all.end(), borrow) == all.end()) {
        all.push_back(borrow);
      }
    }
  }
  return all;
}

/// Own parameters, then borrowed ones.
void GraphRunner::Impl::bind_params(int block, const Held& packs) {
  const Stage& own = stage(block);
  params.clear();
  const auto add = [&](int owner, std::size_t param) {
    const Stage& of = stage(owner);
    params.push_back(
        view(packs[{PackClass::weights, owner}], of.weights, of.shapes, param, config.dtype));
  };
  for (std::size_t p = 0; p < own.shapes.size(); ++p) {
    add(block, p);
  }
  for (const BorrowedParam& borrowed : own.borrows) {
    add(borrowed.block, static_cast<std::size_t>(borrowed.param));
  }
}

/// In the order of the parameters.
void GraphRunner::Impl::bind_sinks(const Instruction& i, const Held& packs) {
  const Stage& own = stage(i.block);
  sinks.clear();
  const auto add = [&](PackClass cls, const PackLayout& layout, std::span<const Shape> shapes) {
    const PackKey key{cls, i.block, i.sum};
    const bool wanted = packs.contains(key);
    for (std::size_t p = 0; p < shapes.size(); ++p) {
      sinks.push_back(wanted
                          ? GradSink{view(packs[key], layout, shapes, p, DType::f32), i.accumulate}
                          : GradSink());
    }
  };
  add(PackClass::grads, own.grads, own.shapes);
  add(PackClass::borrowed_grads, own.borrowed, own.borrowed_shapes);
}

/// What forward, recompute and backward share: parameters, input, saved activations, workspace.
BlockProgram::Bytes GraphRunner::Impl::bytes(const Instruction& i, const Held& packs) {
  using enum PackClass;
  BlockProgram::Bytes b;
  bind_params(i.block, packs);
  b.params = params;
  if (i.block > 0) {
    b.input = packs[{boundary, i.block, i.micro_batch}];
  }
  if (packs.contains({saved, i.block, i.micro_batch})) {
    b.saved = packs[{saved, i.block, i.micro_batch}];
  }
  b.workspace = i.block < last() ? packs[{workspace}] : packs[{workspace, i.block}];
  return b;
}

RunContext GraphRunner::Impl::context(const Instruction& i, StepScalars& scalars) const {
  const StepInputs& inputs = scalars.inputs;
  const auto k = static_cast<std::size_t>(i.micro_batch - config.first_micro_batch);
  STRATA_ASSERT(k < inputs.batches.size() && k < scalars.loss_sums.size());
  RunContext run;
  run.batch = &inputs.batches[k];
  run.seed = inputs.info.seed;
  run.step = inputs.info.step;
  run.block = i.block;
  run.training = config.use == Use::train;
  run.loss_scale = inputs.loss_tokens > 0 ? 1.0 / static_cast<double>(inputs.loss_tokens) : 0.0;
  run.loss_sum = &scalars.loss_sums[k];
  run.stream = &compute_stream();
  run.micro_batch = i.micro_batch;
  run.spans = inputs.spans;
  return run;
}

/// b: the bytes of the forward; gradients are added here.
void GraphRunner::Impl::run_backward(const Instruction& i,
                                     const Held& packs,
                                     const RunContext& run,
                                     BlockProgram::Bytes b) {
  using enum PackClass;
  bind_sinks(i, packs);
  b.param_grads = sinks;
  if (i.block > 0 && stage(i.block).wanted.input) {
    b.input_grad = packs[{boundary_grad, i.block, i.micro_batch}];
  }
  if (i.block < last()) {
    b.output_grad = packs[{boundary_grad, i.block + 1, i.micro_batch}];
  }
  stage(i.block).program->backward(b, run);
}

void GraphRunner::forward(const Instruction& i, const Held& packs, StepScalars& scalars) {
  Impl& m = *impl_;
  const BlockProgram& program = *m.stage(i.block).program;
  BlockProgram::Bytes b = m.bytes(i, packs);
  if (!program.ends_in_loss()) {
    b.output = packs[{PackClass::boundary, i.block + 1, i.micro_batch}];
  }
  const RunContext run = m.context(i, scalars);
  program.forward(b, run);
  if (program.ends_in_loss() && m.config.use == Use::train) {
    m.run_backward(i, packs, run, b);
  }
}

void GraphRunner::recompute(const Instruction& i, const Held& packs, StepScalars& scalars) {
  Impl& m = *impl_;
  // No output: only the activations are wanted.
  m.stage(i.block).program->forward(m.bytes(i, packs), m.context(i, scalars));
}

void GraphRunner::backward(const Instruction& i, const Held& packs, StepScalars& scalars) {
  Impl& m = *impl_;
  m.run_backward(i, packs, m.context(i, scalars), m.bytes(i, packs));
}

}  // namespace strata::models
