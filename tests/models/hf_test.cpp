#include "models/hf.h"

#include <cmath>
#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "tests/models/tiny_models.h"
#include "tests/support/temp_dir.h"

namespace strata::models {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

struct StoredTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};
using Stored = std::map<std::string, StoredTensor>;

std::string bytes_of(std::span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

/// A model's parameters as another program could have stored them.
Stored stored(const ModelConfig& config, const Values& values) {
  Stored all;
  for (const auto& block : build_blocks(config)) {
    for (const ParamSpec& param : block->spec().params) {
      const Shape& shape = param.info.shape;
      all[param.info.name] = {
          "F32", {shape.begin(), shape.end()}, bytes_of(values.at(param.info.name))};
    }
  }
  return all;
}

void write(const fs::path& path, const Stored& tensors) {
  std::vector<io::SafetensorsEntry> entries;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    entries.push_back({name, tensor.dtype, tensor.shape});
    data += tensor.bytes;
  }
  const std::string header = io::safetensors_header(entries, {});
  std::ofstream(path, std::ios::binary) << header << data;
}

Values read(const fs::path& directory, const ModelConfig& config) {
  Values values;
  read_weights(directory, config, sink_to(values));
  return values;
}

/// What reading a directory says when it refuses; nothing may have been delivered.
std::string refusal(const fs::path& directory, const ModelConfig& config) {
  Values values;
  try {
    read_weights(directory, config, sink_to(values));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::format) << error.what();
    EXPECT_TRUE(values.empty());
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

class HuggingFace : public testing::Test {
 protected:
  tests::TempDir dir_;
  ModelConfig config_ = tiny_config(Family::llama, false);
  Values values_ = random_values(config_);
  Stored tensors_ = stored(config_, values_);

  std::string refusal_of_single() {
    write(dir_ / "model.safetensors", tensors_);
    return refusal(dir_.path(), config_);
  }
  fs::path index() const { return dir_ / "model.safetensors.index.json"; }
};

TEST_F(HuggingFace, RoundTripsF32ByteForByte) {
  for (const Family family : {Family::gpt2, Family::llama}) {
    for (const bool tied : {false, true}) {
      ModelConfig config = tiny_config(family, tied);
      config.bias = family == Family::gpt2 && tied;
      const Values values = random_values(config);
      const tests::TempDir dir;
      write_model(dir / "m", config, DType::f32, source_of(values), {});
      EXPECT_EQ(read_config(dir / "m"), config);
      EXPECT_EQ(read(dir / "m", config), values);
    }
  }
}

TEST_F(HuggingFace, RoundTripsBf16ValuesAndRoundsOthersToNearest) {
  write_model(dir_ / "rounded", config_, DType::bf16, source_of(values_), {});
  const Values rounded = read(dir_ / "rounded", config_);
  for (const auto& [name, values] : values_) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(rounded.at(name)[i], to_float(to_bf16(values[i])));
    }
  }
  write_model(dir_ / "again", config_, DType::bf16, source_of(rounded), {});
  EXPECT_EQ(read(dir_ / "again", config_), rounded);
}

TEST_F(HuggingFace, TensorsLargerThanAPieceRoundTrip) {
  config_.V = 70001;
  config_.C = config_.F = 32;
  config_.H = config_.K = 8;
  values_ = random_values(config_);
  write_model(dir_ / "m", config_, DType::f32, source_of(values_), {});
  EXPECT_EQ(read(dir_ / "m", config_), values_);
}

TEST_F(HuggingFace, WritesTheLayoutOfTheSafetensorsLibrary) {
  const std::vector<ExtraFile> extra{{"tokenizer.json", "{}\n"}};
  write_model(dir_ / "m/", config_, DType::bf16, source_of(values_), extra);
  const io::SafetensorsReader reader(dir_ / "m" / "model.safetensors");
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  EXPECT_EQ(reader.data_offset() % 8, 0);
  EXPECT_EQ(reader.entries().size(), values_.size());
  std::string last;
  for (const io::SafetensorsEntry& entry : reader.entries()) {
    EXPECT_LT(last, entry.name);
    EXPECT_EQ(entry.dtype, "BF16");
    last = entry.name;
  }
  EXPECT_EQ(io::read_text(dir_ / "m" / "config.json"), config_json(config_, DType::bf16));
  EXPECT_EQ(io::read_text(dir_ / "m" / "tokenizer.json"), "{}\n");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1);
}

TEST_F(HuggingFace, ATiedHeadIsNotWritten) {
  const ModelConfig tied = tiny_config(Family::llama, true);
  write_model(dir_ / "m", tied, DType::f32, source_of(random_values(tied)), {});
  const io::SafetensorsReader reader(dir_ / "m" / "model.safetensors");
  EXPECT_EQ(reader.find("lm_head.weight"), nullptr);
}

TEST_F(HuggingFace, NothingAppearsBeforeEverythingIsWritten) {
  const ParamSource watching = [&](const ParamSpec& param, std::int64_t, std::span<float>) {
    EXPECT_FALSE(fs::exists(dir_ / "m"));
    if (param.info.name == "model.norm.weight") {
      throw Error(Errc::io, "lost");
    }
  };
  EXPECT_THROW(write_model(dir_ / "m", config_, DType::f32, watching, {}), Error);
  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

TEST_F(HuggingFace, AnExistingTargetIsRefusedAndKept) {
  fs::create_directory(dir_ / "m");
  std::ofstream(dir_ / "m" / "precious") << "x";
  try {
    write_model(dir_ / "m", config_, DType::f32, source_of(values_), {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
    EXPECT_THAT(error.what(), HasSubstr("exists already"));
  }
  EXPECT_TRUE(fs::exists(dir_ / "m" / "precious"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1);
}

TEST_F(HuggingFace, NamesMayLackThePrefix) {
  for (const Family family : {Family::gpt2, Family::llama}) {
    const ModelConfig config = tiny_config(family, true);
    const Values values = random_values(config);
    Stored bare;
    for (auto& [name, tensor] : stored(config, values)) {
      bare[name.substr(name.find('.') + 1)] = tensor;
    }
    write(dir_ / "model.safetensors", bare);
    EXPECT_EQ(read(dir_.path(), config), values);
  }
}

TEST_F(HuggingFace, BuffersAndTheRepeatedTableOfOldCheckpointsAreIgnored) {
  const ModelConfig config = tiny_config(Family::gpt2, true);
  const Values values = random_values(config);
  Stored old = stored(config, values);
  old["transformer.h.0.attn.bias"] = {"U8", {1, 1, 2, 2}, std::string(4, 1)};
  old["transformer.h.1.attn.masked_bias"] = {"F32", {}, "abcd"};
  old["lm_head.weight"] = old["transformer.wte.weight"];
  write(dir_ / "model.safetensors", old);
  EXPECT_EQ(read(dir_.path(), config), values);
  old["lm_head.weight"].shape = {config.C, config.V};
  write(dir_ / "model.safetensors", old);
  EXPECT_THAT(refusal(dir_.path(), config), HasSubstr("'lm_head.weight' (16, 11) is not part"));
}

TEST_F(HuggingFace, ReadsEveryHalfPrecisionNumber) {
  ModelConfig config = tiny_config(Family::llama, false);
  config.V = 65536 / config.C;
  const Values values = random_values(config);
  Stored tensors = stored(config, values);
  std::string halves;
  for (int bits = 0; bits < 65536; ++bits) {
    halves += static_cast<char>(bits & 255);
    halves += static_cast<char>(bits >> 8);
  }
  tensors["lm_head.weight"] = {"F16", {config.V, config.C}, halves};
  write(dir_ / "model.safetensors", tensors);
  const auto got = read(dir_.path(), config).at("lm_head.weight");
  for (int bits = 0; bits < 65536; ++bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double expected = exponent == 0    ? std::ldexp(fraction, -24)
                      : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                       : std::ldexp(1024 + fraction, exponent - 25);
    expected = bits >= 32768 ? -expected : expected;
    const float value = got[static_cast<std::size_t>(bits)];
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else {
      ASSERT_EQ(value, expected) << bits;
      ASSERT_EQ(std::signbit(value), bits >= 32768);
    }
  }
}

TEST_F(HuggingFace, ReadsShards) {
  Stored first, second;
  json map;
  for (const auto& [name, tensor] : tensors_) {
    const bool in_first = first.size() < 5;
    (in_first ? first : second)[name] = tensor;
    map[name] = in_first ? "model-1.safetensors" : "model-2.safetensors";
  }
  write(dir_ / "model-1.safetensors", first);
  write(dir_ / "model-2.safetensors", second);
  std::ofstream(index()) << json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
  EXPECT_EQ(read(dir_.path(), config_), values_);

  map["model.norm.weight"] = "model-1.safetensors";
  std::ofstream(index()) << json{{"weight_map", map}};
  EXPECT_THAT(refusal(dir_.path(), config_), HasSubstr("according to the index"));
  map["model.norm.weight"] = "model-3.safetensors";
  std::ofstream(index()) << json{{"weight_map", map}};
  EXPECT_THAT(refusal(dir_.path(), config_), HasSubstr("model-3.safetensors, which is absent"));
  map["model.norm.weight"] = "../model-2.safetensors";
  std::ofstream(index()) << json{{"weight_map", map}};
  EXPECT_THAT(refusal(dir_.path(), config_), HasSubstr("which is not a file name"));
  map["model.norm.weight"] = 2;
  std::ofstream(index()) << json{{"weight_map", map}};
  EXPECT_THAT(refusal(dir_.path(), config_), HasSubstr("must name a file, got 2"));
  std::ofstream(index()) << "{\"weight_map\": [";
  EXPECT_THAT(refusal(dir_.path(), config_), HasSubstr("'weight_map'"));
}

TEST_F(HuggingFace, AnIndexMayNotPromiseMoreThanTheFilesHold) {
  json map;
  for (const auto& [name, tensor] : tensors_) {
    map[name] = "model-1.safetensors";
  }
  map["model.rotary_emb.inv_freq"] = "model-1.safetensors";
  write(dir_ / "model-1.safetensors", tensors_);
  std::ofstream(index()) << json{{"weight_map", map}};
  EXPECT_THAT(refusal(dir_.path(), config_),
              HasSubstr("'model.rotary_emb.inv_freq' is absent though the index names it"));
}

TEST_F(HuggingFace, RefusesMissingTensors) {
  tensors_.erase("model.layers.1.mlp.up_proj.weight");
  EXPECT_THAT(refusal_of_single(),
              HasSubstr("'model.layers.1.mlp.up_proj.weight' (24, 16) is missing"));
}

TEST_F(HuggingFace, RefusesTensorsOfAnotherModel) {
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {"F32", {1}, "abcd"};
  EXPECT_THAT(refusal_of_single(), HasSubstr("'model.layers.0.self_attn.q_proj.bias' (1) is not"));
}

TEST_F(HuggingFace, RefusesWrongShapes) {
  tensors_["lm_head.weight"].shape = {16, 11};
  EXPECT_THAT(refusal_of_single(),
              HasSubstr("'lm_head.weight' needs shape (11, 16), got (16, 11)"));
}

TEST_F(HuggingFace, RefusesOtherDtypes) {
  tensors_["lm_head.weight"].dtype = "I32";
  EXPECT_THAT(refusal_of_single(), HasSubstr("needs dtype F32, BF16 or F16, got I32"));
}

TEST_F(HuggingFace, RefusesATensorUnderBothNames) {
  tensors_["norm.weight"] = tensors_["model.norm.weight"];
  EXPECT_THAT(refusal_of_single(), HasSubstr("comes twice"));
}

TEST_F(HuggingFace, RefusesTruncatedFiles) {
  write(dir_ / "model.safetensors", tensors_);
  const auto whole = fs::file_size(dir_ / "model.safetensors");
  for (const auto size : {whole - 1, whole / 2, std::uintmax_t{100}, std::uintmax_t{0}}) {
    fs::resize_file(dir_ / "model.safetensors", size);
    EXPECT_THAT(refusal(dir_.path(), config_), HasSubstr("model.safetensors"));
  }
}

TEST_F(HuggingFace, SaysWhenThereAreNoWeights) {
  EXPECT_THAT(refusal(dir_.path(), config_), HasSubstr("has neither model.safetensors nor"));
}

}  // namespace
}  // namespace strata::models
