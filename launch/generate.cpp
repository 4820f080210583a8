// strata generate DIR --prompt TEXT: samples from a model.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/philox.h"
#include "launch/args.h"
#include "launch/commands.h"
#include "launch/forward_only.h"
#include "launch/model_dir.h"

namespace strata::launch {
namespace {

std::int32_t greedy(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// Draws from softmax(logits / temperature) with one uniform number in [0, 1).
std::int32_t sample(std::span<const float> logits, double temperature, double u) {
  const double top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> cumulative;
  double sum = 0;
  for (const float logit : logits) {
    cumulative.push_back(sum += std::exp((logit - top) / temperature));
  }
  const auto it = std::upper_bound(cumulative.begin(), cumulative.end(), u * sum);
  return static_cast<std::int32_t>(
      std::min<std::ptrdiff_t>(it - cumulative.begin(), std::ssize(logits) - 1));
}

struct Request {
  std::vector<std::int32_t> ids;  // prompt
  std::int64_t tokens = 0;
  double temperature = 0;
  std::uint64_t seed = 1;
};

/// Appends new ids until the count is reached or the model ends the text.
std::vector<std::int32_t> continue_ids(const ModelDir& model, const Request& request) {
  constexpr std::int64_t kRound = 64;
  std::vector<std::int32_t> ids = request.ids;
  const std::int64_t total = std::ssize(ids) + request.tokens;
  const std::int64_t T = std::min(model.config.max_T, (total + kRound - 1) / kRound * kRound);
  InferenceEngine engine(model.config, T, model.weights);
  for (std::int64_t n = 0; n < request.tokens; ++n) {
    const std::int64_t begin = std::max<std::int64_t>(0, std::ssize(ids) - T);  // the window slides
    const auto logits = engine.next(std::span(ids).subspan(static_cast<std::size_t>(begin)));
    const auto random =
        RandomKey{request.seed, RandomUse::generation, 0, 0}.words(static_cast<std::uint64_t>(n));
    const std::int32_t id = request.temperature == 0
                                ? greedy(logits)
                                : sample(logits, request.temperature, uniform(random[0]));
    if (id == model.tokenizer->eos() || (id == model.tokenizer->bos() && n > 0)) {
      break;
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace

int generate(Words words) {
  using Kind = CommandOption::Kind;
  const Args args("generate",
                  words,
                  {"DIR"},
                  {{"--prompt", "", "text to continue"},
                   {"--max-tokens", "100", "new tokens at most", Kind::integer},
                   {"--temperature", "0.8", "0: the likeliest token each time", Kind::number},
                   {"--seed", "1", "of the draws", Kind::integer},
                   {"--json", "", "print one JSON object", Kind::flag}});
  if (args.help()) {
    return 0;
  }
  if (args.integer("--max-tokens") < 1 || args.number("--temperature") < 0) {
    throw Error(Errc::config,
                "generate: --max-tokens must be at least 1 and --temperature at least 0");
  }
  const ModelDir model = open_model(args.positional(0));
  Request request;
  if (model.tokenizer->bos() >= 0) {
    request.ids.push_back(model.tokenizer->bos());
  }
  const auto prompt = model.tokenizer->encode(args.text("--prompt"));
  request.ids.insert(request.ids.end(), prompt.begin(), prompt.end());
  if (request.ids.empty()) {
    throw Error(Errc::config, "generate: this model needs a prompt: give --prompt TEXT");
  }
  request.tokens = args.integer("--max-tokens");
  request.temperature = args.number("--temperature");
  request.seed = static_cast<std::uint64_t>(args.integer("--seed"));

  const auto start = std::chrono::steady_clock::now();
  const auto ids = continue_ids(model, request);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const auto made = static_cast<double>(ids.size() - request.ids.size());
  const std::string text = model.tokenizer->decode(ids);
  if (args.flag("--json")) {
    // A cut UTF-8 sequence at the end of the text must not make the JSON invalid.
    using json = nlohmann::json;
    const json object{{"text", text}, {"ids", ids}, {"tokens_per_second", made / seconds.count()}};
    std::printf("%s\n", object.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  } else {
    std::printf("%s\n", text.c_str());
  }
  return 0;
}

}  // namespace strata::launch
