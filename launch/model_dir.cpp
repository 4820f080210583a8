#include "launch/model_dir.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/stored_weights.h"

namespace strata::launch {
std::filesystem::path find_checkpoint(const std::filesystem::path& directory,
                                      checkpoint::Check check) {
  if (exists(directory / "MANIFEST.pb")) {
    const checkpoint::Reader reader(directory);
    if (check == checkpoint::Check::every_byte) {
      reader.verify();
    }
    return directory;
  }
  const auto warn = [](const std::string& text) {
    std::fprintf(stderr, "strata: warning: %s\n", text.c_str());
  };
  if (!is_directory(directory / "ckpt")) {
    return {};
  }
  return checkpoint::newest(directory / "ckpt", warn, check).value_or(std::filesystem::path());
}

ModelDir open_model(const std::filesystem::path& directory, NeedTokenizer need) {
  if (!is_directory(directory)) {
    throw Error(
        Errc::format,
        fmt::format(
            "model: {} is not a directory; give a Hugging Face directory, a run or a checkpoint",
            directory.string()));
  }
  ModelDir model;
  model.path = find_checkpoint(directory);
  if (!model.path.empty()) {
    const auto reader = std::make_shared<checkpoint::Reader>(model.path);
    model.config = models::read_config(model.path);
    model.weights = [reader](const ParamSpec& spec, std::int64_t begin, std::span<float> values) {
      read_stored_weights(*reader, spec.info.name, begin, values);
    };
  } else if (exists(directory / "config.json")) {
    model.path = directory;
    model.config = models::read_config(directory);
    model.weights = models::weights_source(directory, model.config);
  } else {
    throw Error(Errc::format,
                fmt::format("model: {} holds neither config.json nor a complete checkpoint; give a "
                            "Hugging Face directory, a run or a checkpoint",
                            directory.string()));
  }
  if (need == NeedTokenizer::yes || exists(model.path / data::kTokenizerFile)) {
    model.tokenizer = data::load_tokenizer(model.path);
  }
  return model;
}

std::map<std::string, std::string> model_files(const models::ModelConfig& config,
                                               const data::Tokenizer& tokenizer) {
  std::map<std::string, std::string> files{{"config.json", models::config_json(config)}};
  for (const auto& file : tokenizer.files()) {
    files[file.name] = file.content;
  }
  return files;
}

}  // namespace strata::launch
