#include "launch/job.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/io/file.h"
#include "launch/model_dir.h"

namespace strata::launch {
namespace {

constexpr std::int64_t kEvaluationMicroBatches = 8;  // of one run of the evaluation program

std::vector<std::filesystem::path> paths(const std::vector<std::string>& names) {
  return {names.begin(), names.end()};
}

std::unique_ptr<data::Tokenizer> make_tokenizer(const RunConfig& config) {
  const std::string& kind = config.data.tokenizer;
  if (kind == "byte") {
    return data::byte_tokenizer();
  }
  if (kind != "chars") {
    return data::load_tokenizer(kind);
  }
  std::string text;
  for (const auto* files : {&config.data.train, &config.data.valid}) {
    for (const std::string& file : *files) {
      data::require_file(file);
      text += io::read_text(file);
    }
  }
  return data::chars_tokenizer(text);
}

JobData open_data(const RunConfig& config, std::unique_ptr<data::Tokenizer> tokenizer, Text need) {
  JobData data;
  data.tokenizer = std::move(tokenizer);
  if (config.data.train.empty()) {
    if (need == Text::optional) {
      return data;
    }
    throw Error(Errc::config, "data: no text to train on; give --data.train=FILE[,FILE]");
  }
  data.text = data::open_tokens(paths(config.data.train), *data.tokenizer);
  std::int64_t train_end = data.text->size();
  if (!config.data.valid.empty()) {
    data.valid_text = data::open_tokens(paths(config.data.valid), *data.tokenizer);
    data.valid = data::slice_tokens(*data.valid_text, 0, data.valid_text->size());
  } else if (config.data.valid_fraction > 0) {
    train_end = data::tail_split(data.text->size(), config.data.valid_fraction).train_end;
    data.valid = data::slice_tokens(*data.text, train_end, data.text->size());
  }
  data.train = data::slice_tokens(*data.text, 0, train_end);
  return data;
}

/// Weights have the shape that they have: a setting that says another is a mistake.
void require_shape_of_weights(const models::ModelConfig& weights, const ModelSettings& m) {
  const auto require = [&](const char* key, const auto& wish, const auto& has) {
    if (wish && *wish != has) {
      throw Error(Errc::config,
                  fmt::format("model: {} = {}, but the weights in {} have {}; leave it out",
                              key,
                              *wish,
                              m.init_from,
                              has));
    }
  };
  require("model.L", m.L, weights.L);
  require("model.C", m.C, weights.C);
  require("model.H", m.H, weights.H);
  require("model.K", m.K, weights.K);
  require("model.F", m.F, weights.F);
  require("model.bias", m.bias, weights.bias);
  require("model.stable_embedding", m.stable_embedding, weights.stable_embedding);
  require("model.factor_rank", m.factor_rank, weights.factor_rank);
  if (weights.family == models::Family::gpt2) {  // a table of positions
    require("model.max_T", m.max_T, weights.max_T);
  }
}

/// The preset, or the config of the weights to start from (null: none), with the settings' changes.
models::ModelConfig choose_model(const RunConfig& config,
                                 const models::ModelConfig* weights,
                                 const data::Tokenizer& tokenizer) {
  const ModelSettings& m = config.model;
  models::ModelConfig model = weights != nullptr ? *weights : models::preset(m.preset);
  if (weights != nullptr) {
    require_shape_of_weights(model, m);
  }
  const auto change = [](auto& field, const auto& wish) {
    if (wish) {
      field = *wish;
    }
  };
  change(model.L, m.L);
  change(model.C, m.C);
  change(model.H, m.H);
  change(model.max_T, m.max_T);
  change(model.bias, m.bias);
  change(model.stable_embedding, m.stable_embedding);
  change(model.factor_rank, m.factor_rank);
  if (m.dropout) {
    model.dropout = static_cast<float>(*m.dropout);
  }
  if (m.C || m.H) {  // what follows from them, unless said too
    model.D = model.C / std::max<std::int64_t>(1, model.H);
    model.K = model.family == models::Family::gpt2 ? model.H : model.K;
    model.F = model.family == models::Family::gpt2 ? 4 * model.C : model.F;
  }
  change(model.K, m.K);
  change(model.F, m.F);
  const bool tiny = weights == nullptr && m.preset.starts_with("tiny-");
  if (tiny) {  // presets without a tokenizer of their own
    model.V = tokenizer.vocab_size();
  }
  model.validate();
  return model;
}

void require_vocabulary(const models::ModelConfig& model, const data::Tokenizer& tokenizer) {
  if (tokenizer.vocab_size() > model.V) {
    throw Error(
        Errc::config,
        fmt::format("model: its vocabulary of {} is smaller than the tokenizer's {}; choose "
                    "another --data.tokenizer or model",
                    model.V,
                    tokenizer.vocab_size()));
  }
}

/// Of the settings that the method takes beside those that are given.
std::vector<std::pair<std::string, std::string>> method_defaults(const OptimSettings& optim) {
  std::vector<optim::Setting> given;
  for (const auto& [name, value] : optim.settings) {
    given.push_back({name, value});
  }
  std::vector<std::pair<std::string, std::string>> defaults;
  for (const optim::SettingInfo& s : optim::optimizer_settings(optim.method, given)) {
    defaults.emplace_back(s.name, s.default_value);
  }
  return defaults;
}

WeightFormat weight_format(const TrainSettings& train) {
  const bool f32 = train.dtype == DType::f32;
  const WeightFormat format =
      train.weights.value_or(f32 ? WeightFormat::f32 : WeightFormat::bf16_master);
  const bool fits = format == WeightFormat::int8 || (format == WeightFormat::f32) == f32;
  if (!fits) {
    throw Error(Errc::config,
                f32 ? "train.weights: master, stochastic and kahan keep bf16 weights; set "
                      "--train.dtype=bf16, or --train.weights=f32 or int8"
                    : "train.weights: f32 weights are computed with in f32; set "
                      "--train.dtype=f32, or --train.weights=master, stochastic, kahan or int8");
  }
  return format;
}

/// A block that has moved cannot be clipped by a norm that is known later.
void require_update_mode(const RunConfig& config) {
  if (config.update == UpdateMode::immediate && config.optim.clip > 0 &&
      config.optim.clip_scope == ClipScope::global) {
    throw Error(Errc::config,
                fmt::format("numerics.update: immediate updates move a block before the norm of "
                            "the whole gradient is known, and optim.clip = {} limits that norm; "
                            "the nearest is --optim.clip_scope=pack, which limits each block's; "
                            "or set --optim.clip=0 or --numerics.update=speculative",
                            config.optim.clip));
  }
}

/// Of blocks: embedding, decoder blocks, head. Absent: as many as there is room for.
std::optional<int> speculated_blocks(const RunConfig& config, const models::ModelConfig& model) {
  if (!config.speculated) {
    return std::nullopt;
  }
  if (config.update != UpdateMode::hybrid) {
    throw Error(Errc::config,
                fmt::format("numerics.speculated: {} says how many blocks speculate in hybrid "
                            "updates alone; set --numerics.update=hybrid, or leave it at auto",
                            *config.speculated));
  }
  const std::int64_t blocks = model.L + 2;
  if (*config.speculated > blocks) {
    throw Error(Errc::config,
                fmt::format("numerics.speculated: the model has {} blocks that can speculate, got "
                            "{}; set at most that many, or auto",
                            blocks,
                            *config.speculated));
  }
  return static_cast<int>(*config.speculated);
}

/// Every rank takes part, if with windows of no targets.
std::int64_t evaluation_micro_batches(const JobData& data, const RunConfig& config, int world) {
  if (!data.valid) {
    return 0;
  }
  const std::int64_t T = config.train.seq_len, B = config.train.micro_batch;
  const std::int64_t windows = data::evaluation_windows(*data.valid, T);
  return std::max<std::int64_t>(world, std::min(kEvaluationMicroBatches, (windows + B - 1) / B));
}

}  // namespace

/// A tree has several sums alive; layer by layer they are those of one block.
Order default_order(Summation summation) {
  return summation == Summation::elastic ? Order::layer_major : Order::micro_batch_major;
}

Job make_job(Settings settings,
             const std::filesystem::path& checkpoint,
             Text text,
             RankPlace place) {
  Job job{.settings = std::move(settings), .data = {}, .computation = {}, .init = {}};
  const RunConfig& config = job.settings.config();
  const bool resumed = !checkpoint.empty();
  const bool tokenizer_given = job.settings.values().at("data.tokenizer").origin != "default";
  std::optional<ModelDir> start;
  if (!config.model.init_from.empty() && !resumed) {
    start = open_model(config.model.init_from,
                       tokenizer_given ? NeedTokenizer::no : NeedTokenizer::yes);
    job.init = start->weights;
  }
  // Weights mean nothing without the tokenizer they were trained with, so theirs is the default.
  auto tokenizer = resumed                     ? data::load_tokenizer(checkpoint)
                   : start && !tokenizer_given ? std::move(start->tokenizer)
                                               : make_tokenizer(config);
  job.data = open_data(config, std::move(tokenizer), text);
  models::ModelConfig model =
      resumed ? models::read_config(checkpoint)
              : choose_model(config, start ? &start->config : nullptr, *job.data.tokenizer);
  if (resumed && config.model.dropout) {
    model.dropout = static_cast<float>(*config.model.dropout);
  }
  require_vocabulary(model, *job.data.tokenizer);
  complete(job.settings, model);
  job.computation = computation_of(job.settings, model, job.data, place);
  return job;
}

void complete(Settings& settings, const models::ModelConfig& model) {
  settings.complete(model.max_T, method_defaults(settings.config().optim));
  const TrainSettings& train = settings.config().train;
  train.schedule.validate(train.steps);
}

Computation computation_of(const Settings& settings,
                           const models::ModelConfig& model,
                           const JobData& data,
                           RankPlace place) {
  const RunConfig& config = settings.config();
  require_update_mode(config);
  Computation c;
  c.model = model;
  c.T = config.train.seq_len;
  c.B = config.train.micro_batch;
  c.G = config.train.batch_tokens / (c.T * c.B);
  c.evaluation_G = evaluation_micro_batches(data, config, place.world);
  c.place = place;
  c.dtype = config.train.dtype;
  c.weights = weight_format(config.train);
  c.summation = config.summation;
  c.order = config.train.order.value_or(default_order(c.summation));
  c.sharded_update = config.sharded_update;
  c.update = config.update;
  c.speculated = speculated_blocks(config, model);
  c.activation_codec = config.memory.activation_codec;
  c.steps = config.train.steps;
  c.seed = config.train.seed;
  c.balance_every = model.factor_rank > 0 ? config.train.balance_every : 0;
  c.method = config.optim.method;
  for (const auto& [name, value] : config.optim.settings) {
    c.method_settings.push_back({name, value});
  }
  return c;
}

}  // namespace strata::launch
