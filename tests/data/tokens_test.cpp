#include "data/tokens.h"

#include <cmath>
#include <fstream>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::data {
namespace {

using ::testing::HasSubstr;
using tests::expect_error;
using tests::TempDir;
using Ids = std::vector<std::int32_t>;
using Files = std::vector<std::filesystem::path>;

Ids all(const TokenStream& stream) {
  Ids ids(static_cast<std::size_t>(stream.size()));
  stream.read(0, ids);
  return ids;
}

void write(const std::filesystem::path& file, std::string_view text) {
  std::ofstream(file, std::ios::binary) << text;
}

std::string contents(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Ids 0, 1, 2, ... of a wide vocabulary.
class Counting final : public TokenStream {
 public:
  explicit Counting(std::int64_t size) : size_(size) {}
  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::span<std::int32_t> to) const override {
    std::iota(to.begin(), to.end(), static_cast<std::int32_t>(begin));
  }

 private:
  std::int64_t size_;
};

/// One id per number below V; only its vocabulary and digest matter here.
class Wide final : public Tokenizer {
 public:
  explicit Wide(std::int64_t V) : V_(V) {}
  std::string kind() const override { return "wide"; }
  std::int64_t vocab_size() const override { return V_; }
  Ids encode(std::string_view text) const override {
    return Ids(text.size(), static_cast<std::int32_t>(V_ - 1));
  }
  std::string decode(std::span<const std::int32_t>) const override { return {}; }
  std::int32_t bos() const override { return 5; }
  std::vector<File> files() const override { return {{"wide", std::to_string(V_)}}; }

 private:
  std::int64_t V_;
};

TEST(Tokens, TextsFollowEachOther) {
  const TempDir dir;
  write(dir / "a.txt", "abc");
  write(dir / "b.txt", "de");
  const auto stream = open_tokens(Files{dir / "a.txt", dir / "b.txt"}, *byte_tokenizer());
  EXPECT_EQ(all(*stream), (Ids{'a', 'b', 'c', 'd', 'e'}));
  Ids middle(3);
  stream->read(1, middle);
  EXPECT_EQ(middle, (Ids{'b', 'c', 'd'}));
  stream->read(2, std::span(middle).first(1));
  EXPECT_EQ(middle[0], 'c');
  stream->read(5, {});
  const auto slice = slice_tokens(*stream, 2, 4);
  EXPECT_EQ(all(*slice), (Ids{'c', 'd'}));
}

TEST(Tokens, DocumentsStartWithBosAndWideIdsFit) {
  const TempDir dir;
  write(dir / "a.txt", "xx");
  for (const std::int64_t V : {65535, 65536, 100000}) {
    const auto last = static_cast<std::int32_t>(V - 1);
    EXPECT_EQ(all(*open_tokens(Files{dir / "a.txt", dir / "a.txt"}, Wide(V))),
              (Ids{5, last, last, 5, last, last}));
  }
}

TEST(Tokens, BadTextsAreNamed) {
  const TempDir dir;
  write(dir / "empty.txt", "");
  write(dir / "bad.txt", "good\xFFrest");
  write(dir / "strange.txt", "abX");
  const auto open = [&](const std::filesystem::path& file, const Tokenizer& tokenizer) {
    return expect_error(Errc::data, {}, [&] { open_tokens(Files{file}, tokenizer); });
  };
  const auto bytes = byte_tokenizer();
  EXPECT_THAT(open(dir / "none.txt", *bytes), HasSubstr("none.txt does not exist"));
  EXPECT_THAT(open(dir.path(), *bytes), HasSubstr("is a directory"));
  EXPECT_THAT(open("/dev/null", *bytes), HasSubstr("no regular file"));
  EXPECT_THAT(open(dir / "empty.txt", *bytes), HasSubstr("empty.txt is empty"));
  EXPECT_THAT(open(dir / "bad.txt", *bytes),
              HasSubstr("bad.txt: text must be UTF-8, but byte 0xFF at offset 4"));
  EXPECT_THAT(open(dir / "strange.txt", *chars_tokenizer("ab")),
              HasSubstr("strange.txt: chars tokenizer: character 'X' U+0058 at byte 2"));
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { open_tokens({}, *bytes); }),
              HasSubstr("no files"));
}

TEST(TokFile, ReadsWhatWasWritten) {
  const TempDir dir;
  for (const std::int64_t V : {1000, 65535, 65536, 200000}) {
    for (const std::int64_t n : {0, 1, 3, 1000}) {
      write_tok(dir / "x.tok", Counting(n), Wide(V));
      const auto back = open_tokens(Files{dir / "x.tok"}, Wide(V));
      EXPECT_EQ(all(*back), all(Counting(n)));
    }
    const std::int64_t width = V < 65536 ? 2 : 4;
    EXPECT_EQ(static_cast<std::int64_t>(file_size(dir / "x.tok")), 4096 + 1000 * width + 4);
  }
  EXPECT_FALSE(exists(dir / "x.tok.part"));
  rename(dir / "x.tok", dir / "other.name");  // recognised by content too
  EXPECT_EQ(open_tokens(Files{dir / "other.name"}, Wide(200000))->size(), 1000);
}

TEST(TokFile, EveryBlockHasItsChecksum) {
  const TempDir dir;
  constexpr std::int64_t kTokens = (std::int64_t{64} << 20) / 4 + 10;  // a block and a little
  write_tok(dir / "x.tok", Counting(kTokens), Wide(1 << 30));
  EXPECT_EQ(static_cast<std::int64_t>(file_size(dir / "x.tok")), 4096 + 4 * kTokens + 8);
  EXPECT_EQ(open_tokens(Files{dir / "x.tok"}, Wide(1 << 30))->size(), kTokens);
  std::fstream file(dir / "x.tok", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096 + 4 * (kTokens - 1));
  file.put('\x55');
  file.close();
  EXPECT_THAT(
      expect_error(Errc::data, {}, [&] { open_tokens(Files{dir / "x.tok"}, Wide(1 << 30)); }),
      HasSubstr("checksum of tokens 16777216 .. 16777225 is wrong"));
}

TEST(TokFile, OtherTokenizersAreRefused) {
  const TempDir dir;
  write_tok(dir / "x.tok", Counting(10), Wide(300));
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { open_tokens(Files{dir / "x.tok"}, Wide(301)); }),
              HasSubstr("another tokenizer"));
}

TEST(TokFile, AnyDamagedByteIsFound) {
  const TempDir dir;
  write_tok(dir / "x.tok", Counting(7), Wide(300));
  const std::string good = contents(dir / "x.tok");
  const auto refused = [&](const std::string& bad) {
    write(dir / "x.tok", bad);
    return expect_error(Errc::data, {}, [&] { open_tokens(Files{dir / "x.tok"}, Wide(300)); });
  };
  const std::size_t pad = 4096 + 14;  // two bytes between tokens and checksums carry nothing
  for (std::size_t i = 0; i < good.size(); i += i < 80 || i >= 4090 ? 1 : 501) {
    if (i == pad || i == pad + 1) {
      continue;
    }
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    EXPECT_THAT(refused(bad), HasSubstr("x.tok: damaged .tok file")) << i;
  }
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{5}, std::size_t{4095}, std::size_t{4096}, good.size() - 1}) {
    EXPECT_THAT(refused(good.substr(0, size)), HasSubstr("damaged .tok file")) << size;
  }
  EXPECT_THAT(refused(good + "x"), HasSubstr("damaged .tok file"));
}

TEST(TailSplit, RoundsTheValidationUp) {
  EXPECT_EQ(tail_split(1000, 0.1).train_end, 900);
  EXPECT_EQ(tail_split(100, 0.07).train_end, 93);
  EXPECT_EQ(tail_split(1001, 0.1).train_end, 900);
  EXPECT_EQ(tail_split(10, 0.001).train_end, 9);
  EXPECT_EQ(tail_split(10, 0).train_end, 10);
  for (const double bad : {-0.1, 1.0, 1.5, std::nan("")}) {
    EXPECT_THAT(expect_error(Errc::config, {}, [&] { tail_split(10, bad); }),
                HasSubstr("data.valid"));
  }
}

}  // namespace
}  // namespace strata::data
