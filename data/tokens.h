#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/batch.h"
#include "data/tokenizer.h"

namespace strata::data {

/// A sequence of token ids, in memory or mapped from a .tok file; u16 or u32 storage.
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual std::int64_t size() const = 0;
  virtual void read(std::int64_t begin, std::span<std::int32_t> to) const = 0;
};

/// Throws data when `file` is missing or no regular file.
void require_file(const std::filesystem::path& file);

/// Encodes text files one after the other, or opens .tok files. Every text file is validated as
/// UTF-8 first and is one document: it starts with bos(), if the tokenizer has one. Throws data:
/// file missing, a directory, empty, invalid UTF-8 (with the byte offset), .tok of another
/// tokenizer or damaged.
std::unique_ptr<TokenStream> open_tokens(std::span<const std::filesystem::path> files,
                                         const Tokenizer& tokenizer);
/// Range [begin, end) of a stream, which must outlive it.
std::unique_ptr<TokenStream> slice_tokens(const TokenStream& stream,
                                          std::int64_t begin,
                                          std::int64_t end);
/// Writes a .tok file: 4096-byte header (magic, version, count, width, vocabulary, tokenizer
/// digest), tokens (u16 below a vocabulary of 65536, else u32), CRC-32C of each 64 MiB of them. An
/// old file of that name stays until the new one is whole and on disk.
void write_tok(const std::filesystem::path& file,
               const TokenStream& stream,
               const Tokenizer& tokenizer);

/// Contiguous tail split: the last ceil(fraction * n) tokens validate. Throws config unless 0 <=
/// fraction < 1.
struct Split {
  std::int64_t train_end = 0;
};
Split tail_split(std::int64_t tokens, double fraction);

/// Training windows. An epoch cuts the stream into windows of T tokens, side by side from an offset
/// of its own, and takes them in an order of its own: sample j is window perm(j mod n) of epoch j /
/// n, perm a keyed permutation (Feistel network with cycle walking) of the epoch's n windows. Every
/// token is seen once an epoch, where random starts would leave a third of the text unseen after as
/// many samples. A position is an index: no replay, no state, no dependence on ranks. Throws data
/// when the stream has fewer than T + 1 tokens.
class WindowSampler {
 public:
  WindowSampler(const TokenStream& stream, std::int64_t T, std::uint64_t seed);
  std::int64_t start_of(std::int64_t sample) const;
  /// Windows of an epoch.
  std::int64_t windows() const { return windows_; }
  /// Fills the micro-batch's B rows with samples first .. first + B - 1. Tensors are allocated if
  /// absent, else they must be (B, T).
  void fill(MicroBatch& batch, std::int64_t first_sample, std::int64_t B) const;

 private:
  const TokenStream& stream_;
  std::int64_t T_, windows_ = 0, offsets_ = 0;
  std::uint64_t seed_;
};

/// Evaluation over the whole stream in order: windows of T tokens without overlap, every target
/// once; the tail window is padded with masked targets. Returns the number of windows. Throws data
/// when the stream has fewer than 2 tokens: the first is nobody's target.
std::int64_t evaluation_windows(const TokenStream& stream, std::int64_t T);
/// Rows are windows first .. first + B - 1; rows past the last window are masked throughout, so
/// that every batch may have the same shape.
void fill_evaluation(const TokenStream& stream,
                     std::int64_t T,
                     std::int64_t first_window,
                     std::int64_t B,
                     MicroBatch& batch);

}  // namespace strata::data
