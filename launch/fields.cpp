#include "launch/fields.h"

#include <algorithm>

#include "core/nearest.h"
#include "launch/memory_fields.h"

namespace strata::launch {
namespace {

using enum FieldType;
using C = RunConfig;
using V = const Value&;

constexpr std::string_view kOfModel = "preset";  // word for: what the preset or the weights say

/// For a setting with one choice: naming it lets a checkpoint say under which it was made.
void only_choice(C&, V) {}

void set_valid(C& c, V v) {
  c.data.valid = v.is_list() ? v.list() : std::vector<std::string>();
  c.data.valid_fraction = v.is_list() ? 0 : v.real();
}

void set_decay(C& c, V v) {
  using enum optim::Decay;
  c.train.schedule.kind = v.pick({constant, linear, cosine, wsd});
}

void set_engine(C& c, V v) {
  using enum io::QueueConfig::Engine;
  c.io.engine = v.pick({automatic, uring, threads});
}

void set_weights(C& c, V v) {
  const auto format = v.pick({-1, 0, 1, 2, 3, 4});
  c.train.weights.reset();
  if (format >= 0) {
    c.train.weights = static_cast<WeightFormat>(format);
  }
}

/// Layer by layer, the sums of a tree are of one block at a time; else they are of the whole model.
void set_order(C& c, V v) {
  c.train.order =
      v.pick<std::optional<Order>>({std::nullopt, Order::micro_batch_major, Order::layer_major});
}

void set_resume(C& c, V v) {
  c.resume = v.is_word() ? v.pick({Resume::automatic, Resume::never}) : Resume::path;
  c.resume_path = v.is_word() ? "" : v.text();
}

// One setting a row or two: a table reads best as one.
// clang-format off
std::vector<Field> model_fields() {
  const std::vector<std::string_view> preset = {kOfModel};
  return {
      {"model.preset", text, "tiny-gpt2", Effect::bits, "architecture by name",
       [](C& c, V v) { c.model.preset = v.text(); }},
      {"model.init_from", text, "", Effect::bits, "weights to start from, instead of a preset",
       [](C& c, V v) { c.model.init_from = v.text(); }},
      {"model.dropout", real, kOfModel, Effect::bits, "share of activations dropped",
       [](C& c, V v) { c.model.dropout = v.is_word() ? std::nullopt : std::optional(v.real()); },
       preset, 0, 0.99},
      {"model.bias", boolean, kOfModel, Effect::bits, "biases of linears and layer norms (GPT-2)",
       [](C& c, V v) { c.model.bias = v.is_word() ? std::nullopt : std::optional(v.boolean()); },
       preset},
      {"model.stable_embedding", boolean, kOfModel, Effect::bits,
       "Xavier-uniform token table and a layer norm behind the lookup",
       [](C& c, V v) {
         c.model.stable_embedding = v.is_word() ? std::nullopt : std::optional(v.boolean());
       }, preset},
      {"model.factor_rank", integer, kOfModel, Effect::bits,
       "matrices of decoder blocks are products of two of this rank; 0: whole",
       [](C& c, V v) { c.model.factor_rank = v.maybe_integer(); }, preset, 0},
      {"model.L", integer, kOfModel, Effect::bits, "decoder blocks",
       [](C& c, V v) { c.model.L = v.maybe_integer(); }, preset, 1},
      {"model.C", size, kOfModel, Effect::bits, "channels",
       [](C& c, V v) { c.model.C = v.maybe_integer(); }, preset, 1},
      {"model.H", integer, kOfModel, Effect::bits, "heads",
       [](C& c, V v) { c.model.H = v.maybe_integer(); }, preset, 1},
      {"model.K", integer, kOfModel, Effect::bits, "key/value heads",
       [](C& c, V v) { c.model.K = v.maybe_integer(); }, preset, 1},
      {"model.F", size, kOfModel, Effect::bits, "feed-forward width",
       [](C& c, V v) { c.model.F = v.maybe_integer(); }, preset, 1},
      {"model.max_T", size, kOfModel, Effect::bits, "longest sequence",
       [](C& c, V v) { c.model.max_T = v.maybe_integer(); }, preset, 1},
  };
}

std::vector<Field> data_fields() {
  return {
      {"data.train", list, "[]", Effect::bits, "text or .tok files to train on",
       [](C& c, V v) { c.data.train = v.list(); }},
      {"data.valid", list_or_fraction, "0", Effect::bits,
       "files to validate on, or the fraction of data.train's tail to hold out",
       set_valid, {}, 0, 0.99},
      {"data.tokenizer", text, "byte", Effect::bits, "byte, chars, or a directory with a tokenizer; with model.init_from its own unless given",
       [](C& c, V v) { c.data.tokenizer = v.text(); }, {}, 1},
      {"data.sampling", choice, "window", Effect::bits, "how sequences are cut from the text",
       only_choice, {"window"}},
  };
}

std::vector<Field> train_fields() {
  return {
      {"train.steps", integer, "1000", Effect::bits, "optimizer steps",
       [](C& c, V v) { c.train.steps = v.integer(); }, {}, 1},
      {"train.seq_len", size, "auto", Effect::bits, "tokens in a sequence; auto: at most 256",
       [](C& c, V v) { c.train.seq_len = v.maybe_integer().value_or(0); }, {"auto"}, 1},
      {"train.batch_tokens", size, "4096", Effect::bits, "tokens in a step, of all ranks together",
       [](C& c, V v) { c.train.batch_tokens = v.integer(); }, {}, 1},
      {"train.micro_batch", integer, "0", Effect::bits,
       "sequences computed at once; 0: from seq_len and batch_tokens",
       [](C& c, V v) { c.train.micro_batch = v.integer(); }},
      {"train.balance_every", integer, "200", Effect::bits,
       "where model.factor_rank splits matrices: steps between balancings of their factors, whose moments then start anew; 0: never",
       [](C& c, V v) { c.train.balance_every = v.integer(); }, {}, 0},
      {"train.seed", integer, "1", Effect::bits, "of weights, data order and dropout",
       [](C& c, V v) { c.train.seed = static_cast<std::uint64_t>(v.integer()); }},
      {"train.dtype", choice, "f32", Effect::bits, "of weights and activations in a step",
       [](C& c, V v) { c.train.dtype = v.pick({DType::f32, DType::bf16}); }, {"f32", "bf16"}},
      {"train.weights", choice, "auto", Effect::bits,
       "how weights are kept: f32; bf16 beside an f32 master, rounded stochastically or beside what "
       "was cut off (kahan); int8 codes; auto: f32, or master in bf16",
       set_weights, {"auto", "f32", "master", "stochastic", "kahan", "int8"}},
      {"train.order", choice, "auto", Effect::none,
       "which of blocks and micro-batches is the outer loop; auto: micro-batch-major, layer-major if elastic",
       set_order, {"auto", "micro-batch-major", "layer-major"}},
      {"train.on_nonfinite", choice, "skip", Effect::bits,
       "a step with a NaN or infinity in its gradient",
       [](C& c, V v) { c.train.on_nonfinite = v.pick({OnNonfinite::skip, OnNonfinite::stop}); },
       {"skip", "stop"}},
      {"train.eval_every", integer, "100", Effect::none, "steps between validations; 0: never",
       [](C& c, V v) { c.train.eval_every = v.integer(); }},
      {"train.eval_tokens", size, "0", Effect::none, "tokens of a validation at most; 0: all",
       [](C& c, V v) { c.train.eval_tokens = v.integer(); }},
  };
}

std::vector<Field> schedule_fields() {
  return {
      {"train.schedule.kind", choice, "cosine", Effect::bits, "how the learning rate falls",
       set_decay, {"constant", "linear", "cosine", "wsd"}},
      {"train.schedule.lr", real, "0.0003", Effect::bits, "peak learning rate",
       [](C& c, V v) { c.train.schedule.lr = v.real(); }},
      {"train.schedule.final_fraction", real, "0.1", Effect::bits, "of the peak, at the end",
       [](C& c, V v) { c.train.schedule.final_fraction = v.real(); }, {}, 0, 1},
      {"train.schedule.warmup_steps", integer, "0", Effect::bits, "linear rise from 0",
       [](C& c, V v) { c.train.schedule.warmup_steps = v.integer(); }},
      {"train.schedule.decay_steps", integer, "0", Effect::bits,
       "step at which the fall ends; 0: train.steps",
       [](C& c, V v) { c.train.schedule.decay_steps = v.integer(); }},
      {"train.schedule.cooldown_fraction", real, "0.2", Effect::bits,
       "wsd: share of the steps spent falling",
       [](C& c, V v) { c.train.schedule.cooldown_fraction = v.real(); }, {}, 0, 1},
  };
}

std::vector<Field> method_fields() {
  return {
      {"optim.method", text, "adamw", Effect::bits,
       "optimizer; its own settings are optim.NAME (see strata config schema)",
       [](C& c, V v) { c.optim.method = v.text(); }, {}, 1},
      {"optim.clip", real, "1", Effect::bits, "largest norm of the gradient; 0: any",
       [](C& c, V v) { c.optim.clip = v.real(); }},
      {"optim.clip_scope", choice, "global", Effect::bits,
       "whose norm is limited: global: of the whole gradient; pack: of each block's by itself",
       [](C& c, V v) { c.optim.clip_scope = v.pick({ClipScope::global, ClipScope::pack}); },
       {"global", "pack"}},
      {"numerics.deterministic", choice, "run", Effect::bits,
       "what repeats bit for bit: run: on the same number of ranks; elastic: on any",
       [](C& c, V v) { c.summation = v.pick({Summation::run, Summation::elastic}); },
       {"run", "elastic"}},
      {"numerics.checksum_every", integer, "100", Effect::none,
       "steps between comparisons of the ranks' weights; 0: never",
       [](C& c, V v) { c.checksum_every = v.integer(); }},
      {"numerics.grad_dtype", choice, "f32", Effect::bits, "of gradients between ranks",
       only_choice, {"f32"}},
      {"numerics.update", choice, "after_norm", Effect::none,
       "updates after the norm is known; speculative: before, and taken back if it clips; immediate: block by block for good, which frees each gradient at once; lazy_forward: block by block within the next step's forward; hybrid: speculative of numerics.speculated blocks, lazy_forward of the others",
       [](C& c, V v) {
         c.update =
             v.pick({UpdateMode::after_norm, UpdateMode::speculative, UpdateMode::immediate,
                     UpdateMode::lazy_forward, UpdateMode::hybrid});
       },
       {"after_norm", "speculative", "immediate", "lazy_forward", "hybrid"}},
      {"numerics.speculated", integer, "auto", Effect::none,
       "hybrid updates: how many blocks, the last of the model, speculate; auto: as many as there is room for beside the rest",
       [](C& c, V v) { c.speculated = v.maybe_integer(); }, {"auto"}, 0},
  };
}

std::vector<Field> machine_fields() {
  return {
      {"parallel.zero", integer, "1", Effect::none,
       "what ranks share out; 0: nothing, each has all; 1: optimizer state and updates (ZeRO-1)",
       [](C& c, V v) { c.sharded_update = v.integer() == 1; }, {}, 0, 1},
      {"parallel.timeout", real, "600", Effect::none,
       "seconds that a rank waits for another before it gives up",
       [](C& c, V v) { c.timeout_seconds = v.real(); }, {}, 0.1},
      {"memory.recompute", recompute, "auto", Effect::none,
       "activations that backward computes again: none, elementwise, mlp, projections, block, by decoder block as 0-5:block,6:elementwise, or auto: the least work that fits memory.device",
       [](C& c, V v) { c.memory.recompute = parse_recompute(v.text()).value(); }},
      {"checkpoint.every", integer, "100", Effect::none,
       "steps between checkpoints; 0: at the end only",
       [](C& c, V v) { c.checkpoint.every = v.integer(); }},
      {"checkpoint.keep_last", integer, "2", Effect::none, "checkpoints kept",
       [](C& c, V v) { c.checkpoint.keep_last = v.integer(); }, {}, 1},
      {"run.dir", text, "run", Effect::none, "directory of logs and checkpoints",
       [](C& c, V v) { c.run_dir = v.text(); }, {}, 1},
      {"trace.steps", steps, "none", Effect::none,
       "steps whose times go to trace.json in run.dir: one, or FIRST:LAST",
       [](C& c, V v) { c.trace_steps = v.is_word() ? StepRange() : v.steps(); }, {"none"}, 1},
      {"resume", text, "auto", Effect::none,
       "go on with the run in run.dir: auto, never, or from a checkpoint's path; not given: a used run.dir is refused",
       set_resume, {"auto", "never"}, 1},
      {"io.engine", choice, "automatic", Effect::none, "how files are read and written",
       set_engine, {"automatic", "uring", "threads"}},
      {"io.verify", choice, "sample", Effect::none, "offloaded bytes that are compared with their checksums when they are read: of one MiB in 16, of all, of none",
       [](C& c, V v) { c.io.verify = v.text(); }, {"sample", "all", "off"}},
      {"io.pace_read", real, "0", Effect::none, "GB/s at which offloaded bytes are read from each directory at most; 0: as fast as it goes",
       [](C& c, V v) { c.io.pace_read = 1e9 * v.real(); }, {}, 0},
      {"io.pace_write", real, "0", Effect::none, "and written",
       [](C& c, V v) { c.io.pace_write = 1e9 * v.real(); }, {}, 0},
      {"threads", integer, "0", Effect::none, "threads that compute; 0: all cores",
       [](C& c, V v) { c.threads = v.integer(); }, {}, 0, 4096},
  };
}
// clang-format on

std::string_view last_part(std::string_view key) {
  return key.substr(key.rfind('.') + 1);
}

}  // namespace

std::span<const Field> fields() {
  static const std::vector<Field> table = [] {
    std::vector<Field> all;
    for (auto group : {model_fields,
                       data_fields,
                       train_fields,
                       schedule_fields,
                       method_fields,
                       tier_fields,
                       machine_fields,
                       lossy_fields}) {
      std::ranges::move(group(), std::back_inserter(all));
    }
    return all;
  }();
  return table;
}

const Field* find_field(std::string_view key) {
  const auto found = std::ranges::find(fields(), key, &Field::key);
  return found == fields().end() ? nullptr : &*found;
}

bool is_method_setting(std::string_view key) {
  return key.starts_with("optim.") && key.size() > 6 && find_field(key) == nullptr;
}

std::string nearest_key(std::string_view key) {
  std::vector<std::string> names, same_end;
  for (const Field& field : fields()) {
    names.emplace_back(field.key);
    if (last_part(field.key) == last_part(key)) {
      same_end.emplace_back(field.key);  // train.lr means train.schedule.lr, far as it is
    }
  }
  return nearest(key, same_end.empty() ? names : same_end);
}

}  // namespace strata::launch
