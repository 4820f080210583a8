#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/io/file.h"
#include "tests/models/tiny_models.h"
#include "tests/support/temp_dir.h"

namespace strata::models {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A checkpoint of dim 4, hidden 6, 1 layer, 1 head of 4, vocabulary 3, 2 positions, whose values
/// count up in file order.
struct Counting {
  std::vector<std::int32_t> header;
  std::int64_t header_bytes = 28;
  int values = 0;

  void write(const fs::path& path) const {
    std::string text(static_cast<std::size_t>(header_bytes), '\0');
    std::memcpy(text.data(), header.data(), header.size() * 4);
    for (int i = 0; i < values; ++i) {
      const auto value = static_cast<float>(i);
      text.append(reinterpret_cast<const char*>(&value), 4);
    }
    std::ofstream(path, std::ios::binary) << text;
  }
};
constexpr int kShared = 3 * 4 + 4 + 4 * 16 + 4 + 3 * 24 + 4;  // all but tables and head

Counting legacy(int vocabulary) {
  return {{4, 6, 1, 1, 1, vocabulary, 2}, 28, kShared + 2 * 4 + (vocabulary < 0 ? 12 : 0)};
}

Counting version1(int shared) {
  return {{0x616b3432, 1, 4, 6, 1, 1, 1, 3, 2, shared}, 256, kShared + (shared != 0 ? 0 : 12)};
}

Values read(const Llama2c& model) {
  Values values;
  for (const auto& block : build_blocks(model.config)) {
    for (const ParamSpec& param : block->spec().params) {
      auto& to = values[param.info.name];
      to.resize(static_cast<std::size_t>(param.info.shape.numel()));
      model.source(param, 0, to);
    }
  }
  return values;
}

std::vector<float> count(int from, int n) {
  std::vector<float> all;
  for (int i = 0; i < n; ++i) {
    all.push_back(static_cast<float>(from + i));
  }
  return all;
}

std::string refusal(const Counting& file, int more_bytes = 0) {
  const tests::TempDir dir;
  file.write(dir / "m.bin");
  fs::resize_file(dir / "m.bin",
                  static_cast<std::uintmax_t>(
                      static_cast<std::int64_t>(fs::file_size(dir / "m.bin")) + more_bytes));
  try {
    read_llama2c(dir / "m.bin");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::format) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("m.bin: llama2.c checkpoint: "));
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(Llama2c, LegacyOrderAndPermutationOfRotatedRows) {
  const tests::TempDir dir;
  legacy(3).write(dir / "m.bin");
  const Llama2c model = read_llama2c(dir / "m.bin");
  EXPECT_TRUE(model.config.tied);
  EXPECT_EQ(model.config.F, 6);
  EXPECT_EQ(model.config.max_T, 2);
  EXPECT_EQ(model.config.rope_style, RopeStyle::half_split);
  Values values = read(model);
  EXPECT_EQ(values["model.embed_tokens.weight"], count(0, 12));
  EXPECT_EQ(values["model.layers.0.input_layernorm.weight"], count(12, 4));
  // q starts at 16; rows 0, 1, 2, 3 of the file are pairs (0, 1), (2, 3).
  const std::vector<float> q{16, 17, 18, 19, 24, 25, 26, 27, 20, 21, 22, 23, 28, 29, 30, 31};
  EXPECT_EQ(values["model.layers.0.self_attn.q_proj.weight"], q);
  EXPECT_EQ(values["model.layers.0.self_attn.k_proj.weight"][4], 32 + 8);
  EXPECT_EQ(values["model.layers.0.self_attn.v_proj.weight"], count(48, 16));
  EXPECT_EQ(values["model.layers.0.self_attn.o_proj.weight"], count(64, 16));
  EXPECT_EQ(values["model.layers.0.post_attention_layernorm.weight"], count(80, 4));
  EXPECT_EQ(values["model.layers.0.mlp.gate_proj.weight"], count(84, 24));
  EXPECT_EQ(values["model.layers.0.mlp.down_proj.weight"], count(108, 24));
  EXPECT_EQ(values["model.layers.0.mlp.up_proj.weight"], count(132, 24));
  EXPECT_EQ(values["model.norm.weight"], count(156, 4));
}

TEST(Llama2c, ANegativeVocabularyHasAHeadOfItsOwnBehindTheTables) {
  const tests::TempDir dir;
  legacy(-3).write(dir / "m.bin");
  const Llama2c model = read_llama2c(dir / "m.bin");
  EXPECT_FALSE(model.config.tied);
  EXPECT_EQ(model.config.V, 3);
  EXPECT_EQ(read(model)["lm_head.weight"], count(160 + 8, 12));
}

TEST(Llama2c, Version1Order) {
  const tests::TempDir dir;
  version1(0).write(dir / "m.bin");
  Values values = read(read_llama2c(dir / "m.bin"));
  EXPECT_EQ(values["model.layers.0.input_layernorm.weight"], count(0, 4));
  EXPECT_EQ(values["model.layers.0.post_attention_layernorm.weight"], count(4, 4));
  EXPECT_EQ(values["model.norm.weight"], count(8, 4));
  EXPECT_EQ(values["model.embed_tokens.weight"], count(12, 12));
  EXPECT_EQ(values["model.layers.0.self_attn.v_proj.weight"], count(24 + 32, 16));
  EXPECT_EQ(values["model.layers.0.mlp.down_proj.weight"], count(88 + 24, 24));
  EXPECT_EQ(values["lm_head.weight"], count(160, 12));
  version1(1).write(dir / "tied.bin");
  EXPECT_TRUE(read_llama2c(dir / "tied.bin").config.tied);
}

TEST(Llama2c, AnyRangeHasTheSameValues) {
  const tests::TempDir dir;
  legacy(3).write(dir / "m.bin");
  const Llama2c model = read_llama2c(dir / "m.bin");
  Values whole = read(model);
  const auto blocks = build_blocks(model.config);
  const ParamSpec& q = blocks[1]->spec().params[1];
  ASSERT_EQ(q.info.name, "model.layers.0.self_attn.q_proj.weight");
  std::vector<float> piece(9);
  model.source(q, 3, piece);
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole[q.info.name].begin() + 3));
}

TEST(Llama2c, RefusesWhatIsNotACheckpoint) {
  EXPECT_THAT(refusal(legacy(3), -1), HasSubstr("needs 700 bytes for its header"));
  EXPECT_THAT(refusal(legacy(3), 1), HasSubstr("got 701"));
  EXPECT_THAT(refusal(legacy(3), -680), HasSubstr("needs a header of 28 bytes, got 20"));
  EXPECT_THAT(refusal(version1(1), -4 * kShared - 10), HasSubstr("needs a header of 256 bytes"));
  Counting other = version1(1);
  other.header[1] = 2;
  EXPECT_THAT(refusal(other), HasSubstr("version 2 is not supported"));
  other = legacy(3);
  other.header[0] = 0;
  EXPECT_THAT(refusal(other), HasSubstr("C (channels)"));
  other.header[0] = 0x7fffffff;
  EXPECT_THAT(refusal(other), HasSubstr("C (channels)"));
  other = legacy(3);
  other.header[3] = 3;
  EXPECT_NE(refusal(other), "");
  other = version1(1);
  other.header[7] = -3;
  EXPECT_THAT(refusal(other), HasSubstr("vocabulary must be positive"));
}

TEST(Llama2c, BothLayoutsOfStories260KHoldTheSameWeights) {
  const fs::path path = tests::test_data("weights/stories260K/stories260K.bin");
  const fs::path path1 = tests::test_data("weights/stories260K/stories260K_v1.bin");
  if (path.empty() || path1.empty()) {
    GTEST_SKIP() << "weights/stories260K/stories260K.bin or stories260K_v1.bin is absent";
  }
  const Llama2c model = read_llama2c(path), model1 = read_llama2c(path1);
  EXPECT_EQ(model.config.C, 64);
  EXPECT_EQ(model.config.K, 4);
  EXPECT_EQ(model.config.max_T, 512);
  EXPECT_TRUE(model.config.tied);
  EXPECT_EQ(model.config, model1.config);
  const Values values = read(model);
  EXPECT_EQ(values, read(model1));
  // An imported directory holds the same again.
  const tests::TempDir dir;
  write_model(dir / "m", model.config, DType::f32, model.source, {});
  Values again;
  read_weights(dir / "m", read_config(dir / "m"), sink_to(again));
  EXPECT_EQ(again, values);
}

}  // namespace
}  // namespace strata::models
