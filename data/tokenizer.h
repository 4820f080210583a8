#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::data {

/// Text to ids and back. Immutable; thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string kind() const = 0;  // "byte", "chars", "llama2c"
  virtual std::int64_t vocab_size() const = 0;
  /// Without bos(). Throws data, with the byte offset, for text it cannot represent (a character
  /// outside the set, invalid UTF-8).
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// Throws data for an id outside the vocabulary.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  /// Id put before a prompt and before each document, if the model wants one; else -1.
  virtual std::int32_t bos() const { return -1; }
  /// Id a model writes when its text is over; else -1.
  virtual std::int32_t eos() const { return -1; }
  /// Files of a model directory that make load_tokenizer() return an equal tokenizer.
  struct File {
    std::string name, content;
  };
  virtual std::vector<File> files() const = 0;
  /// Identity of the mapping: XXH3-128 of kind and files, 32 hex digits; stored in .tok files and
  /// checkpoints.
  std::string digest() const;
};

/// The file our tokenizers write. `tokenizer.json` would be another format, that of Hugging Face.
inline constexpr std::string_view kTokenizerFile = "strata_tokenizer.json";

/// 256 ids, id = byte value.
std::unique_ptr<Tokenizer> byte_tokenizer();
/// One id per distinct Unicode character of `text`, in code-point order. Throws data on invalid
/// UTF-8 or empty text.
std::unique_ptr<Tokenizer> chars_tokenizer(std::string_view text);
/// The tokenizer of a llama2.c model (tok512.bin): scores, greedy merges, byte fallback. Throws
/// data for a file that holds no such vocabulary.
std::unique_ptr<Tokenizer> llama2c_tokenizer(const std::filesystem::path& file,
                                             std::int64_t vocab_size);
/// Whatever files() of one of ours wrote into a directory. Throws data when there is none we know.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory);

/// For implementations: throws data unless 0 <= id < vocab_size.
void require_id(std::int32_t id, std::int64_t vocab_size, std::string_view kind);

}  // namespace strata::data
