// Model directories that are damaged or not what their config says: exit 5, one line, and neither a
// run directory nor a number on standard output.
#include <array>
#include <bit>
#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string file_of(std::string_view header, std::string_view data) {
  const auto length = std::bit_cast<std::array<char, 8>>(std::uint64_t{header.size()});
  return std::string(length.data(), length.size()) + std::string(header) + std::string(data);
}

/// The Hugging Face directory of a trained model, made from the weights of its checkpoint, and what
/// its weights file consists of.
class BadModel : public testing::Test {
 protected:
  BadModel() {
    const fs::path checkpoint = runs_.finished("run") / "ckpt" / "s000000000006-i0001";
    fs::create_directory(model_);
    for (const char* name : {"config.json", "strata_tokenizer.json"}) {
      fs::copy(checkpoint / name, model_);
    }
    const io::SafetensorsReader stored(checkpoint / "d00000_00.safetensors");
    const CommandEnd shown = run_command({"inspect", "show", checkpoint, "--json"});
    const json tensors = json::parse(shown.out)["tensors"];
    for (const json& tensor : tensors) {
      if (tensor["state"] == "weight") {
        const std::string name = tensor["tensor"];
        const std::int64_t begin = std::ssize(data_);
        for (const io::SafetensorsEntry& entry : stored.entries()) {
          if (entry.name.starts_with("weight:" + name + "@")) {
            std::string bytes(static_cast<std::size_t>(entry.end - entry.begin), '\0');
            stored.read(entry, 0, std::as_writable_bytes(std::span(bytes)));
            data_ += bytes;
          }
        }
        header_[name] = {{"dtype", "F32"},
                         {"shape", tensor["shape"]},
                         {"data_offsets", {begin, std::ssize(data_)}}};
      }
    }
    weights(file_of(header_.dump(), data_));
  }

  void weights(std::string_view bytes) const { runs_.file("model/model.safetensors", bytes); }
  void refused(std::initializer_list<std::string_view> says) const {
    const auto before = runs_.contents();
    expect_refused(run_command({"eval", model_, "--data", runs_ / "text", "--json"}), 5, says);
    expect_refused(run_command({"generate", model_, "--prompt", "a", "--json"}), 5, says);
    expect_refused(run_command(train()), 5, says);
    EXPECT_EQ(runs_.contents(), before);
  }
  Words train() const {
    Words words = runs_.train("new", {"--model.init_from=" + model_.string()});
    std::erase_if(words, [](const std::string& w) {
      return w.starts_with("--model.") && !w.starts_with("--model.init_from");
    });
    return words;
  }

  TinyRuns runs_;
  fs::path model_ = runs_ / "model";
  json header_;  // of the good file
  std::string data_;
};

TEST_F(BadModel, TheGoodOneIsTaken) {
  EXPECT_EQ(run_command({"eval", model_, "--data", runs_ / "text"}).exit_code, 0);
  EXPECT_EQ(run_command({"generate", model_, "--prompt", "a"}).exit_code, 0);
  const CommandEnd end = run_command(train());
  EXPECT_EQ(end.exit_code, 0) << end.text();
}

TEST_F(BadModel, Truncated) {
  const std::string whole = file_of(header_.dump(), data_);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    weights(std::string_view(whole).substr(0, size));
    refused({"model.safetensors", "get it again"});
  }
  weights(whole + "x");
  refused({"model.safetensors", "1 bytes follow"});
}

TEST_F(BadModel, OverlappingTensors) {
  json header = header_;
  auto& offsets = header["transformer.wte.weight"]["data_offsets"];
  offsets = {offsets[0].get<std::int64_t>() - 4, offsets[1].get<std::int64_t>() - 4};
  weights(file_of(header.dump(), data_));
  refused({"transformer.wte.weight", "overlapping", "get it again"});
}

TEST_F(BadModel, HeadersThatAreNone) {
  const std::string header = header_.dump();
  std::string huge = file_of(header, data_);
  huge[5] = 1;  // a length of 2^40
  weights(huge);
  refused({"model.safetensors", "100000000", "get it again"});
  weights(file_of("[1, 2]", data_));
  refused({"model.safetensors", "JSON", "get it again"});
  weights(file_of(header.substr(0, header.size() / 2), data_));
  refused({"model.safetensors", "JSON", "get it again"});
}

TEST_F(BadModel, AShapeThatIsNotTheModels) {
  json header = header_;
  auto& shape = header["transformer.h.0.mlp.c_fc.weight"]["shape"];
  ASSERT_EQ(shape, json({16, 64}));
  shape = {64, 16};
  weights(file_of(header.dump(), data_));
  refused({"transformer.h.0.mlp.c_fc.weight", "(16, 64)", "(64, 16)", "same complete model"});
}

TEST_F(BadModel, TensorsThatAreMissingOrTooMany) {
  json header = header_;
  header["transformer.wing"] = header["transformer.ln_f.bias"];
  header.erase("transformer.ln_f.bias");
  weights(file_of(header.dump(), data_));
  refused({"transformer.wing", "same complete model"});
  header = header_;
  auto& last = header["transformer.wte.weight"];  // the last bytes of the file
  ASSERT_EQ(last["data_offsets"][1], data_.size()) << header_;
  const std::string_view rest = std::string_view(data_).substr(0, last["data_offsets"][0]);
  header.erase("transformer.wte.weight");
  weights(file_of(header.dump(), rest));
  refused({"transformer.wte.weight", "missing", "same complete model"});
}

TEST_F(BadModel, NotAFile) {
  fs::remove(model_ / "model.safetensors");
  refused({"model.safetensors", "same complete model"});
  fs::create_directory(model_ / "model.safetensors");
  refused({"model.safetensors", "no regular file", "name a safetensors file"});
}

TEST_F(BadModel, AConfigThatIsNone) {
  runs_.file("model/config.json", "{\"architectures\"");
  refused({"config.json"});
  runs_.file("model/config.json", R"({"architectures": ["ResNet"]})");
  refused({"config.json", "ResNet"});
}

TEST_F(BadModel, SettingsThatAreNotTheWeights) {
  Words words = train();
  words.push_back("--model.C=32");
  expect_refused(run_command(words), 2, {"model.C", "32", "16", "leave it out"});
  EXPECT_FALSE(fs::exists(runs_ / "new"));
}

TEST_F(BadModel, AnImportOfWhatIsNoModelLeavesNothing) {
  const auto before = runs_.contents();
  expect_refused(run_command({"import",
                              "llama2c",
                              runs_ / "text",
                              "--tokenizer",
                              runs_ / "text",
                              "-o",
                              runs_ / "imported"}),
                 5,
                 {"text"});
  EXPECT_EQ(runs_.contents(), before);
}

}  // namespace
}  // namespace strata::tests
