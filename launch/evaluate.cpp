// strata eval DIR --data FILE: the loss of a model on a text.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/tokens.h"
#include "launch/args.h"
#include "launch/commands.h"
#include "launch/forward_only.h"
#include "launch/model_dir.h"

namespace strata::launch {
namespace {

struct Loss {
  double sum = 0;  // nats
  std::int64_t tokens = 0;
};

std::int64_t unmasked(const MicroBatch& batch) {
  const auto* targets = batch.targets.data<std::int32_t>();
  return std::count_if(
      targets, targets + batch.targets.numel(), [](std::int32_t t) { return t != kMasked; });
}

Loss evaluate_stream(const ModelDir& model, const data::TokenStream& stream, std::int64_t T) {
  constexpr std::int64_t kTokens = 2048;  // of a micro-batch
  const std::int64_t windows = data::evaluation_windows(stream, T);
  const std::int64_t B = std::clamp<std::int64_t>(kTokens / T, 1, windows);
  EvaluationEngine engine(model.config, B, T, model.weights);
  Loss loss;
  MicroBatch batch;
  for (std::int64_t first = 0; first < windows; first += B) {
    data::fill_evaluation(stream, T, first, B, batch);
    loss.sum += engine.evaluate(batch);
    loss.tokens += unmasked(batch);
  }
  return loss;
}

}  // namespace

int evaluate(Words words) {
  using Kind = CommandOption::Kind;
  const Args args(
      "eval",
      words,
      {"DIR"},
      {{"--data", "", "a text or .tok file", Kind::text, CommandOption::Presence::required},
       {"--seq-len", "0", "tokens of a window; 0: what the model allows", Kind::integer},
       {"--json", "", "print one JSON object", Kind::flag}});
  if (args.help()) {
    return 0;
  }
  const ModelDir model = open_model(args.positional(0));
  const std::int64_t asked = args.integer("--seq-len");
  if (asked < 0 || asked > model.config.max_T) {
    throw Error(Errc::config,
                fmt::format("eval: --seq-len must be between 1 and the model's {}, got {}",
                            model.config.max_T,
                            asked));
  }
  const std::int64_t T = asked > 0 ? asked : model.config.max_T;
  const std::filesystem::path file = args.text("--data");
  const auto stream = data::open_tokens({&file, 1}, *model.tokenizer);
  const Loss loss = evaluate_stream(model, *stream, T);
  const double mean = loss.sum / static_cast<double>(loss.tokens);
  const double bits = loss.sum / std::log(2.0) / static_cast<double>(file_size(file));
  if (args.flag("--json")) {
    const nlohmann::json object{{"loss", mean},
                                {"tokens", loss.tokens},
                                {"perplexity", std::exp(mean)},
                                {"bits_per_byte", bits}};
    std::printf("%s\n", object.dump().c_str());
  } else {
    std::printf("loss %.4f nats a token, perplexity %.3f, %.4f bits a byte (%lld tokens)\n",
                mean,
                std::exp(mean),
                bits,
                static_cast<long long>(loss.tokens));
  }
  return 0;
}

}  // namespace strata::launch
