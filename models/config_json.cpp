#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "models/config.h"

namespace strata::models {
namespace {

using nlohmann::json;

/// The fields of a config.json, with messages that name the file and the key.
class Fields {
 public:
  Fields(std::string where, json object) : where_(std::move(where)), object_(std::move(object)) {
    if (!object_.is_object()) {
      throw Error(Errc::format, where_ + ": needs a JSON object, got " + object_.type_name());
    }
  }

  [[noreturn]] void fail(std::string_view what) const {
    throw Error(Errc::format, fmt::format("{}: {}", where_, what));
  }

  /// Absent and null are the same to transformers.
  const json* find(std::string_view key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  std::int64_t integer(std::string_view key, std::optional<std::int64_t> absent = {}) const {
    const json* value = find(key);
    if (value == nullptr && absent) {
      return *absent;
    }
    // Every size fits 32 bits, so that sums and products of a few cannot overflow.
    if (value == nullptr || !value->is_number_integer() ||
        std::abs(value->get<double>()) > std::numeric_limits<std::int32_t>::max()) {
      wrong_type(key, "an integer of at most 31 bits", value);
    }
    return value->get<std::int64_t>();
  }

  double number(std::string_view key, double absent) const {
    const json* value = find(key);
    if (value != nullptr && !value->is_number()) {
      wrong_type(key, "a number", value);
    }
    return value == nullptr ? absent : value->get<double>();
  }

  bool boolean(std::string_view key, bool absent) const {
    const json* value = find(key);
    if (value != nullptr && !value->is_boolean()) {
      wrong_type(key, "true or false", value);
    }
    return value == nullptr ? absent : value->get<bool>();
  }

  std::string text(std::string_view key, std::string absent) const {
    const json* value = find(key);
    if (value != nullptr && !value->is_string()) {
      wrong_type(key, "a string", value);
    }
    return value == nullptr ? absent : value->get<std::string>();
  }

  Fields object(std::string_view key) const {
    const json* value = find(key);
    return {fmt::format("{}: '{}'", where_, key), value == nullptr ? json::object() : *value};
  }

  /// A variant whose function differs from the one we compute.
  void refuse_unless(std::string_view key, bool wanted, bool absent) const {
    if (boolean(key, absent) != wanted) {
      fail(fmt::format("'{}' = {} is not supported, only {}", key, !wanted, wanted));
    }
  }

 private:
  [[noreturn]] void wrong_type(std::string_view key, std::string_view need, const json* got) const {
    fail(fmt::format(
        "'{}' must be {}, got {}", key, need, got == nullptr ? "nothing" : got->dump()));
  }

  std::string where_;
  json object_;
};

std::string architecture(const Fields& fields) {
  const json* list = fields.find("architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !(*list)[0].is_string()) {
    fields.fail("'architectures' must name one architecture");
  }
  return (*list)[0].get<std::string>();
}

void read_strata(const Fields& fields, ModelConfig& c) {
  const Fields extra = fields.object("strata");
  c.dropout = static_cast<float>(extra.number("dropout", c.dropout));
  c.bias = extra.boolean("bias", c.bias);
  const std::string style = extra.text("rope_style", "half_split");
  if (style != "half_split" && style != "interleaved") {
    extra.fail(
        fmt::format("'rope_style' must be \"half_split\" or \"interleaved\", got \"{}\"", style));
  }
  c.rope_style = style == "interleaved" ? RopeStyle::interleaved : RopeStyle::half_split;
  c.stable_embedding = extra.boolean("stable_embedding", c.stable_embedding);
  c.factor_rank = extra.integer("factor_rank", c.factor_rank);
}

ModelConfig read_gpt2(const Fields& fields) {
  const std::string activation = fields.text("activation_function", "gelu_new");
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh") {
    fields.fail(fmt::format("'activation_function' must be \"gelu_new\", got \"{}\"", activation));
  }
  fields.refuse_unless("scale_attn_weights", true, true);
  fields.refuse_unless("scale_attn_by_inverse_layer_idx", false, false);
  fields.refuse_unless("add_cross_attention", false, false);
  const double dropout = fields.number("resid_pdrop", 0.1);
  if (const double embedding = fields.number("embd_pdrop", 0.1); embedding != dropout) {
    fields.fail(fmt::format(
        "'resid_pdrop' and 'embd_pdrop' must be equal, got {} and {}", dropout, embedding));
  }
  ModelConfig c;
  c.family = Family::gpt2;
  c.L = fields.integer("n_layer");
  c.C = fields.integer("n_embd");
  c.H = c.K = fields.integer("n_head");
  c.D = c.H > 0 ? c.C / c.H : 0;
  c.F = fields.integer("n_inner", 4 * c.C);
  c.V = fields.integer("vocab_size");
  c.max_T = fields.integer("n_positions");
  c.tied = fields.boolean("tie_word_embeddings", true);
  c.norm_eps = static_cast<float>(fields.number("layer_norm_epsilon", 1e-5));
  c.init_std = static_cast<float>(fields.number("initializer_range", 0.02));
  c.dropout = static_cast<float>(dropout);
  return c;
}

/// theta of plain RoPE. Before transformers 5 it is a field of its own beside "rope_scaling", since
/// then part of "rope_parameters".
double read_rope_theta(const Fields& fields) {
  double theta = fields.number("rope_theta", 10000.0);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const Fields rope = fields.object(key);
    const std::string type = rope.text("rope_type", rope.text("type", "default"));
    if (type != "default") {
      fields.fail(
          fmt::format("'{}' of type \"{}\" is not supported, only plain RoPE (as in Llama 2 and "
                      "3; Llama 3.1 and later scale it)",
                      key,
                      type));
    }
    theta = rope.number("rope_theta", theta);
  }
  return theta;
}

ModelConfig read_llama(const Fields& fields, bool mistral) {
  const std::string activation = fields.text("hidden_act", "silu");
  if (activation != "silu") {
    fields.fail(fmt::format("'hidden_act' must be \"silu\", got \"{}\"", activation));
  }
  fields.refuse_unless("attention_bias", false, false);
  fields.refuse_unless("mlp_bias", false, false);
  ModelConfig c;
  c.family = Family::llama;
  c.L = fields.integer("num_hidden_layers");
  c.C = fields.integer("hidden_size");
  c.H = fields.integer("num_attention_heads");
  c.K = fields.integer("num_key_value_heads", mistral ? 8 : c.H);
  c.D = fields.integer("head_dim", c.H > 0 ? c.C / c.H : 0);
  if (fields.find("head_dim") == nullptr && c.D * c.H != c.C) {
    fields.fail(
        fmt::format("'num_attention_heads' must divide 'hidden_size', got {} and {}", c.H, c.C));
  }
  c.F = fields.integer("intermediate_size");
  c.V = fields.integer("vocab_size");
  c.max_T = fields.integer("max_position_embeddings", mistral ? 131072 : 2048);
  // Within its sliding window Mistral attends to everything: shorter sequences are the same.
  if (const json* window = mistral ? fields.find("sliding_window") : nullptr; window != nullptr) {
    c.max_T = std::min(c.max_T, fields.integer("sliding_window"));
  }
  c.tied = fields.boolean("tie_word_embeddings", false);
  c.bias = false;
  c.norm_eps = static_cast<float>(fields.number("rms_norm_eps", 1e-6));
  c.init_std = static_cast<float>(fields.number("initializer_range", 0.02));
  c.rope_theta = read_rope_theta(fields);
  return c;
}

ModelConfig read_fields(const Fields& fields) {
  const std::string name = architecture(fields);
  if (name == "GPT2LMHeadModel") {
    return read_gpt2(fields);
  }
  if (name == "LlamaForCausalLM" || name == "MistralForCausalLM") {
    return read_llama(fields, name == "MistralForCausalLM");
  }
  if (name == "Qwen2ForCausalLM") {
    fields.fail("Qwen2ForCausalLM is not supported: it has biases on q, k and v");
  }
  if (name == "Qwen3ForCausalLM") {
    fields.fail("Qwen3ForCausalLM is not supported: it has norms on q and k");
  }
  fields.fail(fmt::format(
      "architecture '{}' is not supported; GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM "
      "are",
      name));
}

/// The double whose shortest text is the float's: 1e-05, not 9.99999974e-06.
double as_written(float x) {
  return std::strtod(fmt::format("{}", x).c_str(), nullptr);
}

json gpt2_json(const ModelConfig& c) {
  json j{{"architectures", {"GPT2LMHeadModel"}},
         {"model_type", "gpt2"},
         {"activation_function", "gelu_new"},
         {"attn_pdrop", 0.0},
         {"embd_pdrop", as_written(c.dropout)},
         {"resid_pdrop", as_written(c.dropout)},
         {"layer_norm_epsilon", as_written(c.norm_eps)},
         {"n_embd", c.C},
         {"n_head", c.H},
         {"n_inner", c.F == 4 * c.C ? json() : json(c.F)},
         {"n_layer", c.L},
         {"n_positions", c.max_T},
         {"scale_attn_weights", true}};
  if (!c.bias) {
    j["strata"]["bias"] = false;
  }
  return j;
}

json llama_json(const ModelConfig& c) {
  json j{{"architectures", {"LlamaForCausalLM"}},
         {"model_type", "llama"},
         {"attention_bias", false},
         {"attention_dropout", 0.0},
         {"head_dim", c.D},
         {"hidden_act", "silu"},
         {"hidden_size", c.C},
         {"intermediate_size", c.F},
         {"max_position_embeddings", c.max_T},
         {"mlp_bias", false},
         {"num_attention_heads", c.H},
         {"num_hidden_layers", c.L},
         {"num_key_value_heads", c.K},
         {"rms_norm_eps", as_written(c.norm_eps)},
         {"rope_scaling", json()},
         {"rope_theta", c.rope_theta}};
  if (c.dropout != 0) {
    j["strata"]["dropout"] = as_written(c.dropout);
  }
  if (c.rope_style == RopeStyle::interleaved) {
    j["strata"]["rope_style"] = "interleaved";
  }
  return j;
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw Error(Errc::format,
                fmt::format("{}: not a Hugging Face model directory: it has no config.json",
                            directory.string()));
  }
  json parsed = json::parse(io::read_text(path), nullptr, false);
  if (parsed.is_discarded()) {
    throw Error(Errc::format, path.string() + ": is not valid JSON");
  }
  const Fields fields(path.string(), std::move(parsed));
  ModelConfig config = read_fields(fields);
  read_strata(fields, config);
  if (const std::string problem = config.problem(); !problem.empty()) {
    fields.fail(problem);
  }
  return config;
}

std::string config_json(const ModelConfig& config, DType dtype) {
  STRATA_ASSERT(dtype == DType::f32 || dtype == DType::bf16);
  json j = config.family == Family::gpt2 ? gpt2_json(config) : llama_json(config);
  if (config.stable_embedding) {
    j["strata"]["stable_embedding"] = true;
  }
  if (config.factor_rank != 0) {
    j["strata"]["factor_rank"] = config.factor_rank;
  }
  j["initializer_range"] = as_written(config.init_std);
  j["tie_word_embeddings"] = config.tied;
  j["torch_dtype"] = dtype == DType::bf16 ? "bfloat16" : "float32";
  j["use_cache"] = true;
  j["vocab_size"] = config.V;
  return j.dump(2) + "\n";
}

}  // namespace strata::models
