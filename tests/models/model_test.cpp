#include "models/model.h"

#include <algorithm>
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

TEST(BuildBlocks, AStableEmbeddingHasANormBehindTheTable) {
  for (const std::string name : {"tiny-gpt2", "tiny-llama"}) {
    ModelConfig config = preset(name);
    const std::int64_t plain = parameter_count(config);
    const auto without = build_blocks(config);
    config.stable_embedding = true;
    config.tied = true;
    const auto blocks = build_blocks(config);
    const BlockSpec& spec = blocks.front()->spec();
    const bool gpt2 = config.family == Family::gpt2;
    const std::string norm = gpt2 ? "transformer.embedding_norm" : "model.embedding_norm";
    const ParamSpec& weight = named(spec.params, norm + ".weight");
    EXPECT_EQ(weight.info.role, Role::vector);
    EXPECT_EQ(weight.info.shape, (Shape{config.C}));
    EXPECT_EQ(weight.init.mean, 1.f);
    EXPECT_EQ(spec.params.size(), without.front()->spec().params.size() + (gpt2 ? 2 : 1));
    // The head borrows the table, not what comes out of the norm.
    const BorrowedParam& borrowed = blocks.back()->spec().borrows.at(0);
    EXPECT_EQ(spec.params[static_cast<std::size_t>(borrowed.param)].info.shape,
              (Shape{config.V, config.C}));
    EXPECT_EQ(spec.params[static_cast<std::size_t>(borrowed.param)].init.std, 0.f);
    EXPECT_FLOAT_EQ(spec.params[static_cast<std::size_t>(borrowed.param)].init.bound,
                    std::sqrt(6.f / static_cast<float>(config.V + config.C)));
    config.tied = preset(name).tied;
    EXPECT_EQ(parameter_count(config), plain + (gpt2 ? 2 : 1) * config.C);
  }
}

TEST(BuildBlocks, FactoredMatricesAreTwoOfTheRank) {
  ModelConfig config = preset("tiny-gpt2");
  config.factor_rank = 16;
  const auto params = params_of(config);
  const ParamSpec& a = named(params, "transformer.h.1.mlp.c_fc.a.weight");
  const ParamSpec& b = named(params, "transformer.h.1.mlp.c_fc.b.weight");
  EXPECT_EQ(a.info.shape, (Shape{128, 16}));
  EXPECT_EQ(b.info.shape, (Shape{16, 512}));
  EXPECT_EQ(a.info.output_axis, 1);
  EXPECT_EQ(b.info.role, Role::matrix);
  EXPECT_EQ(named(params, "transformer.h.1.mlp.c_fc.bias").info.shape, (Shape{512}));
  // Four matrices (in, out) of 128 and 384, 128, 512; 512 and 128.
  const std::int64_t whole = 128 * (384 + 128 + 512 + 512);
  const std::int64_t factors = 16 * (128 + 384 + 128 + 128 + 2 * (128 + 512));
  EXPECT_EQ(parameter_count(config), parameter_count(preset("tiny-gpt2")) - 4 * (whole - factors));
  config = preset("tiny-llama");
  config.factor_rank = 8;
  const auto llama = params_of(config);
  EXPECT_EQ(named(llama, "model.layers.0.self_attn.k_proj.a.weight").info.shape, (Shape{8, 128}));
  EXPECT_EQ(named(llama, "model.layers.0.self_attn.k_proj.b.weight").info.shape, (Shape{64, 8}));
  EXPECT_EQ(named(llama, "model.embed_tokens.weight").info.shape, (Shape{256, 128}));
  EXPECT_EQ(named(llama, "lm_head.weight").info.shape, (Shape{256, 128}));
}

TEST(BuildBlocks, FactorPairsMultiplyToTheMatrix) {
  for (const std::string name : {"tiny-gpt2", "tiny-llama"}) {
    ModelConfig config = preset(name);
    const auto whole = build_blocks(config);
    config.factor_rank = 4;
    const auto blocks = build_blocks(config);
    EXPECT_TRUE(whole[1]->spec().factors.empty());
    EXPECT_TRUE(blocks.front()->spec().factors.empty());
    EXPECT_TRUE(blocks.back()->spec().factors.empty());
    const BlockSpec& spec = blocks[1]->spec();
    std::vector<Shape> shapes, products;
    for (const ParamSpec& param : whole[1]->spec().params) {
      if (param.info.role == Role::matrix) {
        shapes.push_back(param.info.shape);
      }
    }
    for (const FactorPair& pair : spec.factors) {
      const ParamInfo& left = spec.params[static_cast<std::size_t>(pair.left)].info;
      const ParamInfo& right = spec.params[static_cast<std::size_t>(pair.right)].info;
      EXPECT_EQ(left.shape[1], 4) << left.name;
      EXPECT_EQ(right.shape[0], 4) << right.name;
      products.push_back({left.shape[0], right.shape[1]});
    }
    EXPECT_EQ(products, shapes) << name;
  }
}

/// Of B A, over every matrix of the first block of a wide model.
TEST(BuildBlocks, ProductsOfFactorsStartWithTheVarianceOfWholeMatrices) {
  for (const std::string name : {"tiny-gpt2", "tiny-llama"}) {
    ModelConfig config = preset(name);
    const auto whole = build_blocks(config);
    config.factor_rank = 32;
    const auto blocks = build_blocks(config);
    const BlockSpec& spec = blocks[1]->spec();
    std::size_t matrix = 0;
    for (const FactorPair& pair : spec.factors) {
      while (whole[1]->spec().params[matrix].info.role != Role::matrix) {
        ++matrix;
      }
      const ParamSpec& like = whole[1]->spec().params[matrix++];
      const auto start = [&](int index) {
        const ParamSpec& param = spec.params[static_cast<std::size_t>(index)];
        std::vector<float> out(static_cast<std::size_t>(param.info.shape.numel()));
        init_param(param, 1, 0, out);
        return out;
      };
      const std::vector<float> left = start(pair.left), right = start(pair.right);
      const std::int64_t a = like.info.shape[0], b = like.info.shape[1];
      double square = 0, of_left = 0, of_right = 0;
      for (std::int64_t i = 0; i < a; ++i) {
        for (std::int64_t j = 0; j < b; ++j) {
          double sum = 0;
          for (std::int64_t k = 0; k < 32; ++k) {
            sum += static_cast<double>(left[static_cast<std::size_t>(i * 32 + k)]) *
                   static_cast<double>(right[static_cast<std::size_t>(k * b + j)]);
          }
          square += sum * sum / static_cast<double>(a * b);
        }
      }
      for (const float x : left) {
        of_left += static_cast<double>(x * x);
      }
      for (const float x : right) {
        of_right += static_cast<double>(x * x);
      }
      const double deviation = static_cast<double>(like.init.std);
      EXPECT_NEAR(std::sqrt(square) / deviation, 1.0, 0.05) << like.info.name;
      EXPECT_NEAR(of_left / of_right, 1.0, 0.1) << like.info.name;
    }
    EXPECT_EQ(spec.factors.size(), name == "tiny-gpt2" ? 4U : 7U);
  }
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

TEST(InitParam, UniformValuesFillTheirBounds) {
  ParamSpec spec = normal_spec(3);
  spec.init = {.bound = 0.25f};
  constexpr std::int64_t n = 1 << 18;
  double mean = 0, square = 0;
  float least = 1, most = -1;
  for (const float x : values(spec, 7, n)) {
    least = std::min(least, x);
    most = std::max(most, x);
    mean += static_cast<double>(x) / n;
    square += static_cast<double>(x) * static_cast<double>(x) / n;
  }
  EXPECT_GE(least, -0.25f);
  EXPECT_LE(most, 0.25f);
  EXPECT_LT(least, -0.2499f);
  EXPECT_GT(most, 0.2499f);
  EXPECT_NEAR(mean, 0.0, 0.25 / std::sqrt(3.0) * 5 / 512);
  EXPECT_NEAR(square, 0.0625 / 3, 0.0625 / 3 * 5 * std::sqrt(0.8) / 512);
  std::vector<float> piece(5000);
  init_param(spec, 7, 4099, piece);
  const std::vector<float> whole = values(spec, 7, 10000);
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + 4099));
}

TEST(InitParam, ConstantsAreExact) {
  const ParamSpec ones{{0, "w", Role::vector, {10}}, {1.f, 0.f}};
  EXPECT_EQ(values(ones, 1, 10), std::vector<float>(10, 1.f));
}

}  // namespace
}  // namespace strata::models
