#include "models/model.h"

#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "core/error.h"

namespace strata::models {
namespace {

std::vector<ParamSpec> params_of(const ModelConfig& config) {
  std::vector<ParamSpec> all;
  for (const auto& block : build_blocks(config)) {
    all.insert(all.end(), block->spec().params.begin(), block->spec().params.end());
  }
  return all;
}

const ParamSpec& named(const std::vector<ParamSpec>& params, const std::string& name) {
  for (const ParamSpec& param : params) {
    if (param.info.name == name) {
      return param;
    }
  }
  throw Error(Errc::internal, "no parameter " + name);
}

TEST(ParameterCount, IsThePublishedOne) {
  EXPECT_EQ(parameter_count(preset("gpt2-124m")), 124'439'808);
  EXPECT_EQ(parameter_count(preset("gpt2-350m")), 354'823'168);
  EXPECT_EQ(parameter_count(preset("gpt2-774m")), 774'030'080);
  EXPECT_EQ(parameter_count(preset("gpt2-1.5b")), 1'557'611'200);
  EXPECT_EQ(parameter_count(preset("llama-1b")), 1'100'048'384);
  EXPECT_EQ(parameter_count(preset("llama-7b")), 6'738'415'616);
  EXPECT_EQ(parameter_count(preset("llama-8b")), 8'030'261'248);
}

TEST(BuildBlocks, IdsCountInOrderAndNamesAreUnique) {
  for (const std::string& preset_name : preset_names()) {
    std::set<std::string> names;
    TensorId id = 0;
    for (const ParamSpec& param : params_of(preset(preset_name))) {
      EXPECT_EQ(param.info.id, id++);
      EXPECT_TRUE(names.insert(param.info.name).second) << param.info.name;
    }
  }
}

TEST(BuildBlocks, Gpt2HasTheNamesShapesAndRolesOfItsCheckpoints) {
  const auto params = params_of(preset("gpt2-124m"));
  EXPECT_EQ(params.size(), 2U + 12 * 12 + 2);
  EXPECT_EQ(named(params, "transformer.wte.weight").info.shape, (Shape{50257, 768}));
  EXPECT_EQ(named(params, "transformer.wte.weight").info.role, Role::embed);
  EXPECT_EQ(named(params, "transformer.wpe.weight").info.shape, (Shape{1024, 768}));
  const ParamSpec& qkv = named(params, "transformer.h.11.attn.c_attn.weight");
  EXPECT_EQ(qkv.info.shape, (Shape{768, 2304}));
  EXPECT_EQ(qkv.info.role, Role::matrix);
  EXPECT_EQ(named(params, "transformer.h.0.attn.c_attn.bias").info.shape, (Shape{2304}));
  EXPECT_EQ(named(params, "transformer.h.0.mlp.c_proj.weight").info.shape, (Shape{3072, 768}));
  EXPECT_EQ(named(params, "transformer.h.0.ln_2.bias").info.role, Role::vector);
  EXPECT_EQ(named(params, "transformer.ln_f.weight").info.shape, (Shape{768}));
}

TEST(BuildBlocks, LlamaHasTheNamesShapesAndRolesOfItsCheckpoints) {
  const auto params = params_of(preset("llama-8b"));
  EXPECT_EQ(params.size(), 1U + 32 * 9 + 2);
  EXPECT_EQ(named(params, "model.embed_tokens.weight").info.shape, (Shape{128256, 4096}));
  EXPECT_EQ(named(params, "model.layers.31.self_attn.k_proj.weight").info.shape,
            (Shape{1024, 4096}));
  EXPECT_EQ(named(params, "model.layers.0.mlp.down_proj.weight").info.shape, (Shape{4096, 14336}));
  EXPECT_EQ(named(params, "lm_head.weight").info.role, Role::head);
  EXPECT_EQ(named(params, "model.norm.weight").info.role, Role::vector);
}

TEST(BuildBlocks, ATiedHeadBorrowsTheTable) {
  for (const std::string name : {"tiny-gpt2", "tiny-llama"}) {
    ModelConfig config = preset(name);
    config.tied = true;
    const auto tied = build_blocks(config);
    const BlockSpec& head = tied.back()->spec();
    ASSERT_EQ(head.borrows.size(), 1U);
    const ParamSpec& table = tied[static_cast<std::size_t>(head.borrows[0].block)]
                                 ->spec()
                                 .params[static_cast<std::size_t>(head.borrows[0].param)];
    EXPECT_EQ(table.info.role, Role::embed);
    EXPECT_EQ(table.info.shape, head.borrows[0].shape);
    EXPECT_EQ(table.info.shape[0], config.V);
    config.tied = false;
    const auto untied = build_blocks(config);
    EXPECT_TRUE(untied.back()->spec().borrows.empty());
    EXPECT_EQ(untied.back()->spec().params.back().info.role, Role::head);
  }
}

TEST(BuildBlocks, Gpt2WithoutBiasesHasNone) {
  ModelConfig config = preset("tiny-gpt2");
  config.bias = false;
  const auto params = params_of(config);
  EXPECT_EQ(params.size(), 2U + 4 * 6 + 1);
  for (const ParamSpec& param : params) {
    EXPECT_FALSE(param.info.name.ends_with(".bias")) << param.info.name;
  }
}

TEST(BuildBlocks, ResidualProjectionsStartSmaller) {
  const auto gpt2 = params_of(preset("gpt2-124m"));
  const float scaled = 0.02f / std::sqrt(24.f);
  EXPECT_FLOAT_EQ(named(gpt2, "transformer.h.3.attn.c_proj.weight").init.std, scaled);
  EXPECT_FLOAT_EQ(named(gpt2, "transformer.h.3.mlp.c_proj.weight").init.std, scaled);
  EXPECT_FLOAT_EQ(named(gpt2, "transformer.h.3.mlp.c_fc.weight").init.std, 0.02f);
  EXPECT_FLOAT_EQ(named(gpt2, "transformer.wpe.weight").init.std, 0.02f);
  EXPECT_EQ(named(gpt2, "transformer.h.3.ln_1.weight").init.mean, 1.f);
  EXPECT_EQ(named(gpt2, "transformer.h.3.ln_1.weight").init.std, 0.f);
  EXPECT_EQ(named(gpt2, "transformer.h.3.attn.c_attn.bias").init.mean, 0.f);
  const auto llama = params_of(preset("tiny-llama"));
  const float scaled4 = 0.02f / std::sqrt(8.f);
  EXPECT_FLOAT_EQ(named(llama, "model.layers.0.self_attn.o_proj.weight").init.std, scaled4);
  EXPECT_FLOAT_EQ(named(llama, "model.layers.0.mlp.down_proj.weight").init.std, scaled4);
  EXPECT_FLOAT_EQ(named(llama, "model.layers.0.self_attn.q_proj.weight").init.std, 0.02f);
}

ParamSpec normal_spec(TensorId id) {
  return {{id, "w", Role::matrix, {1000, 1000}}, {0.5f, 2.f}};
}

std::vector<float> values(const ParamSpec& spec, std::uint64_t seed, std::int64_t n) {
  std::vector<float> all(static_cast<std::size_t>(n));
  init_param(spec, seed, 0, all);
  return all;
}

TEST(InitParam, AnyRangeHasTheSameValues) {
  const std::vector<float> whole = values(normal_spec(3), 7, 20000);
  for (const auto& [begin, n] : {std::pair{0, 1}, {1, 2}, {3, 5}, {4095, 4099}, {19999, 1}}) {
    std::vector<float> piece(static_cast<std::size_t>(n));
    init_param(normal_spec(3), 7, begin, piece);
    EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + begin)) << begin;
  }
}

TEST(InitParam, SeedAndTensorSelectTheStream) {
  const auto base = values(normal_spec(3), 7, 1000);
  for (const auto& other : {values(normal_spec(4), 7, 1000), values(normal_spec(3), 8, 1000)}) {
    int equal = 0;
    for (std::size_t i = 0; i < base.size(); ++i) {
      equal += base[i] == other[i];
    }
    EXPECT_LT(equal, 2);
  }
}

// Bounds are five standard errors of a million draws.
TEST(InitParam, ValuesAreNormal) {
  constexpr std::int64_t n = 1'000'000;
  double mean = 0, square = 0, fourth = 0, neighbours = 0, beyond = 0, last = 0;
  for (const float value : values(normal_spec(0), 1, n)) {
    const double z = (value - 0.5) / 2.0;
    mean += z / n;
    square += z * z / n;
    fourth += z * z * z * z / n;
    neighbours += z * last / n;
    beyond += (std::abs(z) > 2.0) / static_cast<double>(n);
    last = z;
  }
  EXPECT_NEAR(mean, 0.0, 0.005);
  EXPECT_NEAR(square, 1.0, 0.0071);
  EXPECT_NEAR(fourth, 3.0, 0.05);
  EXPECT_NEAR(neighbours, 0.0, 0.005);
  EXPECT_NEAR(beyond, 0.0455, 0.00105);
}

TEST(InitParam, ConstantsAreExact) {
  const ParamSpec ones{{0, "w", Role::vector, {10}}, {1.f, 0.f}};
  EXPECT_EQ(values(ones, 1, 10), std::vector<float>(10, 1.f));
}

}  // namespace
}  // namespace strata::models
