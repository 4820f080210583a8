#include "data/tokenizer.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <xxhash.h>

#include "core/error.h"
#include "core/io/file.h"
#include "data/tokenizer_file.h"

namespace strata::data {

std::string Tokenizer::digest() const {
  // Lengths go in, so that moving a byte from one file to the next is another mapping.
  std::string bytes = kind() + '\0';
  for (const File& file : files()) {
    bytes += fmt::format("{}:{}:", file.name.size(), file.content.size());
    bytes += file.name;
    bytes += file.content;
  }
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

void require_id(std::int32_t id, std::int64_t vocab_size, std::string_view kind) {
  if (id < 0 || id >= vocab_size) {
    throw Error(
        Errc::data,
        fmt::format("{} tokenizer: ids are 0 .. {}, got {}; this tokenizer is not the one of "
                    "the model",
                    kind,
                    vocab_size - 1,
                    id));
  }
}

std::vector<Tokenizer::File> tokenizer_file(nlohmann::json content) {
  content["format"] = "strata tokenizer";
  content["version"] = 1;
  return {{std::string(kTokenizerFile), content.dump() + "\n"}};
}

namespace {

std::unique_ptr<Tokenizer> from_json(const nlohmann::json& json) {
  if (json.at("format") != "strata tokenizer" || json.at("version") != 1) {
    return nullptr;
  }
  const std::string kind = json.at("kind");
  if (kind == "byte") {
    return byte_tokenizer();
  }
  if (kind == "chars") {
    return chars_tokenizer(json.at("characters").get<std::string>());
  }
  return kind == "llama2c" ? llama2c_tokenizer(json) : nullptr;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kTokenizerFile;
  if (!exists(path)) {
    const bool hugging_face = exists(directory / "tokenizer.json");
    throw Error(
        Errc::data,
        fmt::format(
            "tokenizer: {} has no {}{}; name a directory that strata wrote",
            directory.string(),
            kTokenizerFile,
            hugging_face ? " (tokenizer.json, the format of Hugging Face, is not read)" : ""));
  }
  const std::string text = io::read_text(path);
  std::string why = "format, version or kind is unknown";
  try {
    if (auto tokenizer = from_json(nlohmann::json::parse(text))) {
      return tokenizer;
    }
  } catch (const nlohmann::json::exception& error) {
    why = error.what();
  }
  throw Error(Errc::data,
              fmt::format("tokenizer: {} is damaged or from a newer version ({}); write it again",
                          path.string(),
                          why));
}

}  // namespace strata::data
