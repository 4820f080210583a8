#include "models/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace strata::models {
namespace {

using testing::HasSubstr;

std::string problem_with(void (*change)(ModelConfig&), std::string_view base = "tiny-llama") {
  ModelConfig c = preset(base);
  change(c);
  return c.problem();
}

TEST(ModelConfig, EveryPresetIsValid) {
  EXPECT_EQ(preset_names().size(), 10U);
  for (const std::string& name : preset_names()) {
    EXPECT_EQ(preset(name).problem(), "") << name;
  }
}

TEST(ModelConfig, PresetsAreThePublishedOnes) {
  const ModelConfig xl = preset("gpt2-1.5b");
  EXPECT_EQ(xl.D, 64);
  EXPECT_EQ(xl.F, 6400);
  EXPECT_TRUE(xl.tied && xl.bias);
  const ModelConfig llama3 = preset("llama-8b");
  EXPECT_EQ(llama3.rope_theta, 500000.0);
  EXPECT_EQ(llama3.D, 128);
  EXPECT_FALSE(llama3.tied || llama3.bias);
}

TEST(ModelConfig, FlopsOfATokenCountTheHeadOnceAndTheEmbeddingNever) {
  // gpt2-124m: 12 blocks of 12 C^2 and the tied head; llama: q, o, k and v, three of the MLP, head.
  const double gpt2 = 12.0 * 12 * 768 * 768 + 50257.0 * 768;
  EXPECT_EQ(training_flops_per_token(preset("gpt2-124m"), 256), 6 * gpt2 + 6.0 * 12 * 256 * 768);
  const double llama = 4.0 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 344) + 256.0 * 128;
  EXPECT_EQ(training_flops_per_token(preset("tiny-llama"), 100), 6 * llama + 6.0 * 4 * 100 * 128);
}

TEST(ModelConfig, AnUnknownPresetIsAnsweredWithTheNearest) {
  try {
    preset("gpt2-124");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'gpt2-124m'?"));
  }
}

TEST(ModelConfig, ProblemsNameTheFieldAndTheValue) {
  using Config = ModelConfig;
  EXPECT_THAT(problem_with([](Config& c) { c.L = 0; }), HasSubstr("L (blocks) must be 1 to"));
  EXPECT_THAT(problem_with([](Config& c) { c.V = std::int64_t{1} << 40; }), HasSubstr("V (voca"));
  EXPECT_THAT(problem_with([](Config& c) { c.K = 3; }), HasSubstr("K must divide H, got H = 4"));
  EXPECT_THAT(problem_with([](Config& c) { c.D = 31; }), HasSubstr("D must be even"));
  EXPECT_THAT(problem_with([](Config& c) { c.bias = true; }), HasSubstr("no biases"));
  EXPECT_THAT(problem_with([](Config& c) { c.dropout = 1.f; }), HasSubstr("dropout must be in"));
  EXPECT_THAT(problem_with([](Config& c) { c.norm_eps = 0.f; }), HasSubstr("norm_eps"));
  EXPECT_THAT(problem_with([](Config& c) { c.rope_theta = -1.0; }), HasSubstr("rope_theta"));
  EXPECT_THAT(problem_with([](Config& c) { c.init_std = -1.f; }), HasSubstr("init_std"));
  EXPECT_THAT(problem_with([](Config& c) { c.H = c.K = 3; }, "tiny-gpt2"),
              HasSubstr("H must divide C"));
  EXPECT_THAT(problem_with([](Config& c) { c.K = 2; }, "tiny-gpt2"), HasSubstr("K = H"));
  EXPECT_THAT(problem_with([](Config& c) { c.D = 1 << 21; }), HasSubstr("H * D must be at most"));
  EXPECT_EQ(problem_with([](Config& c) { c.factor_rank = 64; }), "");
  EXPECT_EQ(problem_with([](Config& c) { c.factor_rank = 65; }),
            "factor_rank needs at most 64, the short side of self_attn.k_proj (64, 128), got 65; "
            "the nearest is 64, and 0 keeps matrices whole");
  EXPECT_THAT(problem_with([](Config& c) { c.factor_rank = 129; }, "tiny-gpt2"),
              HasSubstr("the short side of attn.c_attn (384, 128), got 129; the nearest is 128"));
  EXPECT_THAT(problem_with([](Config& c) { c.factor_rank = -1; }), HasSubstr("the nearest is 0"));
}

TEST(ModelConfig, ValidateThrowsConfig) {
  ModelConfig c = preset("tiny-gpt2");
  c.max_T = -1;
  try {
    c.validate();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
    EXPECT_THAT(error.what(), HasSubstr("max_T (positions) must be"));
    EXPECT_THAT(error.what(), HasSubstr("got -1"));
  }
}

}  // namespace
}  // namespace strata::models
