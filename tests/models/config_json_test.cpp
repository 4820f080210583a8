#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/config.h"
#include "tests/support/temp_dir.h"

namespace strata::models {
namespace {

using nlohmann::json;
using testing::HasSubstr;

ModelConfig read(const std::string& text) {
  const tests::TempDir dir;
  std::ofstream(dir / "config.json") << text;
  return read_config(dir.path());
}

/// What reading says of a text it refuses; fails the test when it does not.
std::string refusal(const std::string& text) {
  try {
    read(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::format);
    EXPECT_THAT(error.what(), HasSubstr("config.json"));
    return error.what();
  }
  ADD_FAILURE() << "read: " << text;
  return {};
}

/// The config.json of a small Llama as transformers writes it, with `changes` on top.
std::string llama_text(const json& changes = json::object()) {
  json j = json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 64,
    "initializer_range": 0.02, "intermediate_size": 172, "max_position_embeddings": 512,
    "mlp_bias": false, "model_type": "llama", "num_attention_heads": 8, "num_hidden_layers": 5,
    "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
    "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "float32",
    "transformers_version": "4.44.0", "use_cache": true, "vocab_size": 512})");
  j.merge_patch(changes);
  return j.dump();
}

/// The published config.json of gpt2, fields of generation left out.
std::string gpt2_text(const json& changes = json::object()) {
  json j = json::parse(R"({
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
    "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "vocab_size": 50257})");
  j.merge_patch(changes);
  return j.dump();
}

TEST(ConfigJson, WhatTransformersHasNoWordForComesBack) {
  for (const std::string name : {"tiny-gpt2", "tiny-llama"}) {
    ModelConfig c = preset(name);
    const std::string plain = config_json(c);
    EXPECT_THAT(plain, testing::Not(HasSubstr("stable_embedding")));
    EXPECT_THAT(plain, testing::Not(HasSubstr("factor_rank")));
    c.stable_embedding = true;
    c.factor_rank = 12;
    EXPECT_EQ(read(config_json(c)), c);
  }
  EXPECT_THAT(refusal(llama_text({{"strata", {{"factor_rank", 33}}}})), HasSubstr("nearest is 32"));
  EXPECT_THAT(refusal(llama_text({{"strata", {{"stable_embedding", 1}}}})),
              HasSubstr("'stable_embedding' must be true or false"));
}

TEST(ConfigJson, ReadsThePublishedGpt2) {
  ModelConfig expected = preset("gpt2-124m");
  expected.dropout = 0.1f;  // what transformers trains with
  EXPECT_EQ(read(gpt2_text()), expected);
}

TEST(ConfigJson, ReadsLlama) {
  const ModelConfig c = read(llama_text());
  EXPECT_EQ(c.family, Family::llama);
  EXPECT_EQ(c.L, 5);
  EXPECT_EQ(c.C, 64);
  EXPECT_EQ(c.F, 172);
  EXPECT_EQ(c.H, 8);
  EXPECT_EQ(c.K, 4);
  EXPECT_EQ(c.D, 8);
  EXPECT_EQ(c.V, 512);
  EXPECT_EQ(c.max_T, 512);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT_TRUE(c.tied);
  EXPECT_FALSE(c.bias);
}

TEST(ConfigJson, FillsInWhatTransformersLeavesOut) {
  const ModelConfig c = read(llama_text({{"num_key_value_heads", nullptr},
                                         {"tie_word_embeddings", nullptr},
                                         {"rms_norm_eps", nullptr},
                                         {"rope_theta", nullptr}}));
  EXPECT_EQ(c.K, c.H);
  EXPECT_FALSE(c.tied);
  EXPECT_EQ(c.norm_eps, 1e-6f);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_TRUE(read(gpt2_text()).tied);
}

TEST(ConfigJson, ReadsTheRopeOfBothLayouts) {
  EXPECT_EQ(read(llama_text({{"rope_theta", 5e5}})).rope_theta, 5e5);
  const json v5{{"rope_theta", nullptr},
                {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 25e4}}}};
  EXPECT_EQ(read(llama_text(v5)).rope_theta, 25e4);
}

TEST(ConfigJson, MistralIsLlamaWithinItsWindow) {
  const json mistral{{"architectures", {"MistralForCausalLM"}}, {"max_position_embeddings", 32768}};
  EXPECT_EQ(read(llama_text(mistral)).max_T, 32768);
  json windowed = mistral;
  windowed["sliding_window"] = 4096;
  EXPECT_EQ(read(llama_text(windowed)).max_T, 4096);
}

TEST(ConfigJson, RoundTripsEveryPresetAndEveryExtra) {
  std::vector<ModelConfig> configs;
  for (const std::string& name : preset_names()) {
    configs.push_back(preset(name));
  }
  ModelConfig odd = preset("tiny-llama");
  odd.D = 64;  // H * D other than C
  odd.rope_style = RopeStyle::interleaved;
  odd.dropout = 0.05f;
  odd.tied = true;
  odd.norm_eps = 3e-6f;
  configs.push_back(odd);
  odd = preset("tiny-gpt2");
  odd.bias = odd.tied = false;
  odd.F = 100;
  odd.dropout = 0.2f;
  configs.push_back(odd);
  for (const ModelConfig& config : configs) {
    EXPECT_EQ(read(config_json(config)), config) << config_json(config);
  }
}

TEST(ConfigJson, WritesWhatOthersRead) {
  const json j = json::parse(config_json(preset("llama-8b"), DType::bf16));
  EXPECT_EQ(j["architectures"], json::parse(R"(["LlamaForCausalLM"])"));
  EXPECT_EQ(j["num_key_value_heads"], 8);
  EXPECT_EQ(j["torch_dtype"], "bfloat16");
  EXPECT_EQ(j["rms_norm_eps"], 1e-5);
  EXPECT_FALSE(j.contains("strata"));
  const std::string text = config_json(preset("tiny-gpt2"));
  EXPECT_THAT(text, HasSubstr("\"layer_norm_epsilon\": 1e-05,\n"));
}

TEST(ConfigJson, RefusesWhatItCannotCompute) {
  EXPECT_THAT(refusal(llama_text({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}})),
              HasSubstr("'rope_scaling' of type \"llama3\" is not supported"));
  EXPECT_THAT(refusal(llama_text({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}})),
              HasSubstr("\"linear\""));
  EXPECT_THAT(refusal(llama_text({{"attention_bias", true}})), HasSubstr("'attention_bias'"));
  EXPECT_THAT(refusal(llama_text({{"mlp_bias", true}})), HasSubstr("'mlp_bias'"));
  EXPECT_THAT(refusal(llama_text({{"hidden_act", "gelu"}})), HasSubstr("\"gelu\""));
  EXPECT_THAT(refusal(llama_text({{"architectures", {"Qwen2ForCausalLM"}}})),
              HasSubstr("biases on q, k and v"));
  EXPECT_THAT(refusal(llama_text({{"architectures", {"Qwen3ForCausalLM"}}})),
              HasSubstr("norms on q and k"));
  EXPECT_THAT(refusal(llama_text({{"architectures", {"BertModel"}}})), HasSubstr("'BertModel'"));
  EXPECT_THAT(refusal(gpt2_text({{"activation_function", "relu"}})), HasSubstr("\"relu\""));
  EXPECT_THAT(refusal(gpt2_text({{"scale_attn_weights", false}})), HasSubstr("only true"));
  EXPECT_THAT(refusal(gpt2_text({{"scale_attn_by_inverse_layer_idx", true}})),
              HasSubstr("only false"));
  EXPECT_THAT(refusal(gpt2_text({{"embd_pdrop", 0.0}})), HasSubstr("'embd_pdrop' must be equal"));
  EXPECT_THAT(refusal(llama_text({{"strata", {{"rope_style", "spiral"}}}})),
              HasSubstr("got \"spiral\""));
}

TEST(ConfigJson, RefusesWrongValues) {
  EXPECT_THAT(refusal("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("[]"), HasSubstr("needs a JSON object, got array"));
  EXPECT_THAT(refusal("{}"), HasSubstr("'architectures' must name one"));
  EXPECT_THAT(refusal(llama_text({{"hidden_size", nullptr}})),
              HasSubstr("'hidden_size' must be an integer of at most 31 bits, got nothing"));
  EXPECT_THAT(refusal(llama_text({{"hidden_size", "64"}})), HasSubstr("got \"64\""));
  EXPECT_THAT(refusal(llama_text({{"hidden_size", 64.5}})), HasSubstr("got 64.5"));
  EXPECT_THAT(refusal(llama_text({{"vocab_size", 1LL << 60}})), HasSubstr("31 bits"));
  EXPECT_THAT(refusal(llama_text({{"num_attention_heads", 0}})), HasSubstr("must divide"));
  EXPECT_THAT(refusal(llama_text({{"num_key_value_heads", 3}})), HasSubstr("K must divide H"));
  EXPECT_THAT(refusal(llama_text({{"num_attention_heads", 7}})), HasSubstr("must divide"));
  EXPECT_THAT(refusal(llama_text({{"num_hidden_layers", -1}})), HasSubstr("L (blocks)"));
  EXPECT_THAT(refusal(llama_text({{"rope_scaling", "linear"}})),
              HasSubstr("'rope_scaling': needs a JSON object, got string"));
  EXPECT_THAT(refusal(gpt2_text({{"tie_word_embeddings", 1}})), HasSubstr("true or false"));
}

TEST(ConfigJson, SaysWhenADirectoryHasNone) {
  const tests::TempDir dir;
  try {
    read_config(dir.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::format);
    EXPECT_THAT(error.what(), HasSubstr("it has no config.json"));
  }
}

}  // namespace
}  // namespace strata::models
