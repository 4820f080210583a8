#include "data/tokens.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/error.h"
#include "core/io/file.h"
#include "data/tok_file.h"
#include "data/utf8.h"

namespace strata::data {
namespace {

template <class Word>
class MemoryTokens final : public TokenStream {
 public:
  explicit MemoryTokens(std::span<const std::int32_t> ids) : words_(ids.size()) {
    std::transform(ids.begin(), ids.end(), words_.begin(), [](std::int32_t id) {
      return static_cast<Word>(id);
    });
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(words_.size()); }
  void read(std::int64_t begin, std::span<std::int32_t> to) const override {
    STRATA_ASSERT(begin >= 0 && begin + static_cast<std::int64_t>(to.size()) <= size());
    std::copy_n(words_.begin() + begin, to.size(), to.begin());
  }

 private:
  std::vector<Word> words_;
};

class JoinedTokens final : public TokenStream {
 public:
  explicit JoinedTokens(std::vector<std::unique_ptr<TokenStream>> parts)
      : parts_(std::move(parts)) {
    for (const auto& part : parts_) {
      ends_.push_back(size() + part->size());
    }
  }
  std::int64_t size() const override { return ends_.empty() ? 0 : ends_.back(); }
  void read(std::int64_t begin, std::span<std::int32_t> to) const override {
    STRATA_ASSERT(begin >= 0 && begin + static_cast<std::int64_t>(to.size()) <= size());
    auto part = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), begin) -
                                         ends_.begin());
    for (; !to.empty(); ++part) {
      const std::int64_t first = begin - (part == 0 ? 0 : ends_[part - 1]);
      const auto n = std::min(to.size(), static_cast<std::size_t>(ends_[part] - begin));
      parts_[part]->read(first, to.first(n));
      to = to.subspan(n);
      begin += static_cast<std::int64_t>(n);
    }
  }

 private:
  std::vector<std::unique_ptr<TokenStream>> parts_;
  std::vector<std::int64_t> ends_;
};

class SlicedTokens final : public TokenStream {
 public:
  SlicedTokens(const TokenStream& stream, std::int64_t begin, std::int64_t end)
      : stream_(stream), begin_(begin), end_(end) {}
  std::int64_t size() const override { return end_ - begin_; }
  void read(std::int64_t begin, std::span<std::int32_t> to) const override {
    STRATA_ASSERT(begin >= 0 && begin + static_cast<std::int64_t>(to.size()) <= size());
    stream_.read(begin_ + begin, to);
  }

 private:
  const TokenStream& stream_;
  std::int64_t begin_, end_;
};

std::unique_ptr<TokenStream> encode_file(const std::filesystem::path& file,
                                         const Tokenizer& tokenizer) {
  const std::string text = io::read_text(file);
  if (text.empty()) {
    throw Error(Errc::data, fmt::format("data: {} is empty; name a text", file.string()));
  }
  require_utf8(text, file.string());
  std::vector<std::int32_t> ids;
  try {
    ids = tokenizer.encode(text);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", file.string(), error.what()));
  }
  if (tokenizer.bos() >= 0) {
    ids.insert(ids.begin(), tokenizer.bos());
  }
  if (tokenizer.vocab_size() < 65536) {
    return std::make_unique<MemoryTokens<std::uint16_t>>(ids);
  }
  return std::make_unique<MemoryTokens<std::uint32_t>>(ids);
}

}  // namespace

void require_file(const std::filesystem::path& file) {
  std::error_code unreadable;
  if (!exists(file, unreadable)) {
    throw Error(Errc::data,
                fmt::format("data: {} does not exist; name a text or .tok file", file.string()));
  }
  if (!is_regular_file(file)) {
    throw Error(Errc::data,
                fmt::format("data: {} is {}; name text or .tok files",
                            file.string(),
                            is_directory(file) ? "a directory" : "no regular file"));
  }
}

std::unique_ptr<TokenStream> open_tokens(std::span<const std::filesystem::path> files,
                                         const Tokenizer& tokenizer) {
  if (files.empty()) {
    throw Error(Errc::data, "data: no files; name at least one text or .tok file");
  }
  std::vector<std::unique_ptr<TokenStream>> parts;
  for (const auto& file : files) {
    require_file(file);
    parts.push_back(is_tok_file(file) ? open_tok(file, tokenizer) : encode_file(file, tokenizer));
  }
  return parts.size() == 1 ? std::move(parts.front())
                           : std::make_unique<JoinedTokens>(std::move(parts));
}

std::unique_ptr<TokenStream> slice_tokens(const TokenStream& stream,
                                          std::int64_t begin,
                                          std::int64_t end) {
  STRATA_ASSERT(0 <= begin && begin <= end && end <= stream.size());
  return std::make_unique<SlicedTokens>(stream, begin, end);
}

Split tail_split(std::int64_t tokens, double fraction) {
  if (!(fraction >= 0 && fraction < 1)) {
    throw Error(Errc::config,
                fmt::format("data.valid: a fraction is at least 0 and below 1, got {}", fraction));
  }
  // 0.07 of 100 is 7.000000000000001 in doubles; what is a whole number but for that stays whole.
  const double exact = fraction * static_cast<double>(tokens), nearest = std::round(exact);
  const bool whole = std::abs(exact - nearest) <= 1e-12 * exact;
  return {tokens - static_cast<std::int64_t>(whole ? nearest : std::ceil(exact))};
}

}  // namespace strata::data
