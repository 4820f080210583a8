#include "data/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/utf8.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::expect_error;
using tests::TempDir;
using Ids = std::vector<std::int32_t>;

void save(const Tokenizer& tokenizer, const std::filesystem::path& directory) {
  for (const Tokenizer::File& file : tokenizer.files()) {
    std::ofstream(directory / file.name, std::ios::binary) << file.content;
  }
}

TEST(Utf8, AcceptsExactlyTheValidSequences) {
  const auto offset = [](std::string_view text) {
    return static_cast<int>(first_invalid_utf8(text).value_or(999));
  };
  EXPECT_EQ(offset("plain ASCII, longer than a word"), 999);
  EXPECT_EQ(offset("\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"), 999);
  EXPECT_EQ(offset("\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF"), 999);
  EXPECT_EQ(offset("12345678ab\xFF"), 10);
  EXPECT_EQ(offset("ab\x80"), 2);            // continuation without a lead
  EXPECT_EQ(offset("ab\xC3"), 2);            // cut off
  EXPECT_EQ(offset("ab\xE2\x82"), 2);        // cut off
  EXPECT_EQ(offset("\xC0\xAF"), 0);          // overlong
  EXPECT_EQ(offset("\xE0\x80\xAF"), 0);      // overlong
  EXPECT_EQ(offset("\xF0\x80\x80\xAF"), 0);  // overlong
  EXPECT_EQ(offset("\xED\xA0\x80"), 0);      // surrogate
  EXPECT_EQ(offset("\xF4\x90\x80\x80"), 0);  // above U+10FFFF
  EXPECT_EQ(offset("\xE2\x28\xA1"), 0);      // ASCII where a continuation belongs
}

TEST(Utf8, EveryCharacterSurvives) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c == 0xD800) {
      c = 0xE000;
    }
    std::string text;
    append_utf8(text, c);
    const Utf8Char read = utf8_at(text, 0);
    ASSERT_EQ(read.code, c);
    ASSERT_EQ(read.bytes, text.size());
  }
}

TEST(ByteTokenizer, IdsAreBytes) {
  const auto t = byte_tokenizer();
  EXPECT_EQ(t->vocab_size(), 256);
  EXPECT_EQ(t->bos(), -1);
  EXPECT_THAT(t->encode("a\xC3\xA9\n"), ElementsAre(97, 0xC3, 0xA9, 10));
  EXPECT_EQ(t->decode(t->encode("a\xC3\xA9\n")), "a\xC3\xA9\n");
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { t->decode(Ids{256}); }),
              HasSubstr("0 .. 255, got 256"));
}

TEST(CharsTokenizer, IdsFollowCodePoints) {
  const auto t = chars_tokenizer(
      "b\xE2\x82\xAC"
      "a\nb\xC3\xA9");
  EXPECT_EQ(t->vocab_size(), 5);  // \n a b e-acute euro
  EXPECT_THAT(t->encode("a\xE2\x82\xAC\xC3\xA9\nb"), ElementsAre(1, 4, 3, 0, 2));
  EXPECT_EQ(t->decode(Ids{4, 3, 2}),
            "\xE2\x82\xAC\xC3\xA9"
            "b");
}

TEST(CharsTokenizer, NamesTheStrangerAndItsPlace) {
  const auto t = chars_tokenizer("abc\xC3\xA9");
  EXPECT_THAT(expect_error(Errc::data,
                           {},
                           [&] {
                             t->encode(
                                 "a\xC3\xA9"
                                 "bX");
                           }),
              HasSubstr("'X' U+0058 at byte 4"));
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { t->encode("ab\n"); }),
              HasSubstr("character U+000A at byte 2"));
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { t->encode("ab\xFF"); }),
              HasSubstr("0xFF at offset 2"));
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { chars_tokenizer(""); }), HasSubstr("empty"));
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { chars_tokenizer("ab\xC3"); }),
              HasSubstr("0xC3 at offset 2"));
}

TEST(Tokenizer, FilesRestoreTheSameMapping) {
  const TempDir dir;
  const auto bytes = byte_tokenizer();
  const auto chars = chars_tokenizer("quote \" backslash \\ \xF0\x9F\x98\x80 \t\n");
  for (const auto* t : {bytes.get(), chars.get()}) {
    save(*t, dir.path());
    const auto back = load_tokenizer(dir.path());
    EXPECT_EQ(back->kind(), t->kind());
    EXPECT_EQ(back->vocab_size(), t->vocab_size());
    EXPECT_EQ(back->digest(), t->digest());
    EXPECT_EQ(back->encode("quote \\"), t->encode("quote \\"));
  }
}

TEST(Tokenizer, DigestsTellMappingsApart) {
  const std::vector<std::string> digests = {byte_tokenizer()->digest(),
                                            chars_tokenizer("ab")->digest(),
                                            chars_tokenizer("abc")->digest()};
  EXPECT_EQ(digests[1], chars_tokenizer("bab")->digest());
  EXPECT_EQ(digests[0].size(), 32u);
  EXPECT_NE(digests[0], digests[1]);
  EXPECT_NE(digests[1], digests[2]);
}

TEST(Tokenizer, LoadRefusesWhatItDoesNotKnow) {
  const TempDir dir;
  const auto load = [&] { load_tokenizer(dir.path()); };
  EXPECT_THAT(expect_error(Errc::data, {}, load), HasSubstr("has no strata_tokenizer.json"));
  std::ofstream(dir / "tokenizer.json") << "{}";
  EXPECT_THAT(expect_error(Errc::data, {}, load), HasSubstr("Hugging Face"));
  for (const char* content :
       {"{",
        "[]",
        "{}",
        R"({"format":"strata tokenizer","version":2,"kind":"byte"})",
        R"({"format":"strata tokenizer","version":1,"kind":"bpe"})",
        R"({"format":"strata tokenizer","version":1,"kind":"chars"})",
        R"({"format":"strata tokenizer","version":1,"kind":"chars","characters":7})"}) {
    std::ofstream(dir / "strata_tokenizer.json") << content;
    EXPECT_THAT(expect_error(Errc::data, {}, load), HasSubstr("damaged or from a newer version"))
        << content;
  }
}

class Llama2cTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto path = tests::test_data("weights/stories260K");
    if (path.empty()) {
      GTEST_SKIP() << "weights/stories260K is not in the test data";
    }
    directory_ = path;
    tokenizer_ = llama2c_tokenizer(path / "tok512.bin", 512);
  }
  nlohmann::json json(const char* name) const {
    std::ifstream file(directory_ / name);
    return nlohmann::json::parse(file);
  }
  std::filesystem::path directory_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(Llama2cTest, EncodesAsTheOriginal) {
  const auto path = tests::test_data("text/tinystories_sample.txt");
  if (path.empty()) {
    GTEST_SKIP() << "text/tinystories_sample.txt is not in the test data";
  }
  std::ifstream file(path);
  std::string text(std::istreambuf_iterator<char>(file), {});
  text.resize(text.find("<|endoftext|>"));
  text.erase(text.find_last_not_of(" \n") + 1);
  text.erase(0, text.find_first_not_of(" \n"));
  Ids ids = tokenizer_->encode(text);
  EXPECT_EQ(tokenizer_->bos(), 1);
  ids.insert(ids.begin(), tokenizer_->bos());
  const Ids expected = json("own_loss_check.json").at("ids");
  ASSERT_GE(ids.size(), expected.size());
  ids.resize(expected.size());
  EXPECT_EQ(ids, expected);
}

TEST_F(Llama2cTest, DecodesAsTheOriginal) {
  const nlohmann::json golden = json("greedy_200.json");
  EXPECT_EQ(tokenizer_->decode(golden.at("ids").get<Ids>()), golden.at("text").get<std::string>());
  EXPECT_EQ(tokenizer_->decode(Ids{403}), " Once");
  EXPECT_EQ(tokenizer_->decode(Ids{1, 403}), "Once");
}

TEST_F(Llama2cTest, EveryTextSurvives) {
  for (const std::string& text : std::vector<std::string>{"",
                                                          " ",
                                                          "Once upon a time",
                                                          "  two  spaces ",
                                                          "\xC3\xA9t\xC3\xA9 \xF0\x9F\x98\x80\n\t",
                                                          "<0x41> <s>",
                                                          std::string("a\0b", 3)}) {
    Ids ids = tokenizer_->encode(text);
    ids.insert(ids.begin(), tokenizer_->bos());
    EXPECT_EQ(tokenizer_->decode(ids), text);
  }
  EXPECT_THAT(tokenizer_->encode("\xF0\x9F\x98\x80"),
              ElementsAre(::testing::_, 0xF0 + 3, 0x9F + 3, 0x98 + 3, 0x80 + 3));
  EXPECT_THAT(expect_error(Errc::data, {}, [&] { tokenizer_->encode("ok\xC3"); }),
              HasSubstr("offset 2"));
}

/// run.c's loop: of all adjacent pairs the best, the leftmost of equals, one at a time.
Ids merged_one_by_one(const std::vector<std::string>& tokens,
                      const std::vector<float>& scores,
                      Ids ids) {
  while (true) {
    float best = -1e10f;
    std::size_t where = 0;
    std::int32_t joined = -1;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const std::string text =
          tokens[static_cast<std::size_t>(ids[i])] + tokens[static_cast<std::size_t>(ids[i + 1])];
      const auto found = std::find(tokens.begin(), tokens.end(), text);
      const auto id = static_cast<std::size_t>(found - tokens.begin());
      if (found != tokens.end() && scores[id] > best) {
        best = scores[id];
        where = i;
        joined = static_cast<std::int32_t>(id);
      }
    }
    if (joined < 0) {
      return ids;
    }
    ids[where] = joined;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
}

TEST(Llama2cTokenizer, MergesLikeTheQuadraticLoop) {
  // A small alphabet and many equal scores, so that ties and overlapping pairs are everywhere.
  std::vector<std::string> tokens = {"<unk>", "\n<s>\n", "\n</s>\n"};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    tokens.emplace_back(name);
  }
  for (const char* token : {" ",
                            "a",
                            "b",
                            "aa",
                            "ab",
                            "ba",
                            "bb",
                            "aab",
                            "aba",
                            "abab",
                            "bbb",
                            "aaaa",
                            " a",
                            " b",
                            " ab"}) {
    tokens.emplace_back(token);
  }
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    std::vector<float> scores(tokens.size());
    for (float& score : scores) {
      score = static_cast<float>(random() % 4) - 2.f;
    }
    scores[266] = -2e10f;  // below what run.c ever joins
    const TempDir dir;
    nlohmann::json file{{"format", "strata tokenizer"},
                        {"version", 1},
                        {"kind", "llama2c"},
                        {"max_token_bytes", 6},
                        {"tokens", tokens},
                        {"scores", scores}};
    std::ofstream(dir / "strata_tokenizer.json") << file.dump();
    const auto t = load_tokenizer(dir.path());
    for (int i = 0; i < 20; ++i) {
      std::string text;
      for (std::size_t n = 1 + random() % 60; text.size() < n;) {
        text += "ab "[random() % 8 == 0 ? 2 : random() % 2];
      }
      Ids ids = {259};
      for (const char c : text) {
        ids.push_back(c == ' ' ? 259 : c == 'a' ? 260 : 261);
      }
      ASSERT_EQ(t->encode(text), merged_one_by_one(tokens, scores, ids)) << text;
    }
  }
}

TEST_F(Llama2cTest, FilesAreLossless) {
  const TempDir dir;
  save(*tokenizer_, dir.path());
  const auto back = load_tokenizer(dir.path());
  EXPECT_EQ(back->kind(), "llama2c");
  EXPECT_EQ(back->digest(), tokenizer_->digest());
  EXPECT_EQ(back->files()[0].content, tokenizer_->files()[0].content);
  EXPECT_EQ(back->encode("Once upon a time there was"),
            tokenizer_->encode("Once upon a time there was"));
}

TEST_F(Llama2cTest, RefusesOtherFiles) {
  const auto open = [](const std::filesystem::path& file, std::int64_t V) {
    return expect_error(Errc::data, {}, [&] { llama2c_tokenizer(file, V); });
  };
  EXPECT_THAT(open(directory_, 512), HasSubstr("not a file"));
  EXPECT_THAT(open(directory_ / "none.bin", 512), HasSubstr("not a file"));
  EXPECT_THAT(open(directory_ / "tok512.bin", 513), HasSubstr("ends inside a token"));
  EXPECT_THAT(open(directory_ / "tok512.bin", 511), HasSubstr("larger vocabulary"));
  EXPECT_THAT(open(directory_ / "stories260K.bin", 512), HasSubstr("ends inside a token"));
}

}  // namespace
}  // namespace strata::data
