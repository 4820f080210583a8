#include "core/io/safetensors.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::io {
namespace {

using tests::expect_error;
using tests::TempDir;

class Safetensors : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
    return path_;
  }
  std::filesystem::path write(const std::string& json, std::size_t data_bytes) {
    const std::uint64_t length = json.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    return write(bytes + json + std::string(data_bytes, 'x'));
  }
  void expect_bad(const std::string& json,
                  std::size_t data_bytes,
                  std::initializer_list<std::string_view> words) {
    write(json, data_bytes);
    const std::string text =
        expect_error(Errc::format, words, [&] { SafetensorsReader reader(path_); });
    EXPECT_NE(text.find(path_.string()), std::string::npos) << text;
  }

  TempDir dir_;
  std::filesystem::path path_ = dir_ / "m.safetensors";
};

std::string tensor(const std::string& name,
                   const std::string& dtype,
                   const std::string& shape,
                   const std::string& offsets) {
  return fmt::format(
      R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", name, dtype, shape, offsets);
}

TEST_F(Safetensors, WritesAndReadsBack) {
  std::vector<SafetensorsEntry> entries(4);
  entries[0] = {"z \"quoted\"", "F32", {2, 3}};
  entries[1] = {"empty", "BF16", {0, 5}};
  entries[2] = {"scalar", "I64", {}};
  entries[3] = {"a", "U8", {3}};
  const std::string header = safetensors_header(entries, {{"format", "pt"}});
  EXPECT_EQ(header.size() % 4096, 0u);
  EXPECT_EQ(entries[3].end, 24 + 0 + 8 + 3);
  write(header + std::string(24, 'a') + std::string(8, 'b') + "xyz");

  const SafetensorsReader reader(path_);
  EXPECT_EQ(reader.data_offset(), 4096);
  EXPECT_EQ(reader.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  ASSERT_EQ(reader.entries().size(), 4u);
  const SafetensorsEntry* first = reader.find("z \"quoted\"");
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(reader.find("scalar")->shape.size(), 0u);
  EXPECT_EQ(reader.find("nothing"), nullptr);
  std::string part(2, ' ');
  reader.read(*reader.find("a"), 1, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, "yz");
  expect_error(Errc::internal, {}, [&] {
    reader.read(*reader.find("a"), 2, std::as_writable_bytes(std::span(part)));
  });
}

TEST_F(Safetensors, AcceptsWhatTheFormatAllows) {
  write("{}", 0);
  EXPECT_TRUE(SafetensorsReader(path_).entries().empty());
  // Listed by offset, not by name or place in the text; padded header; a dtype we cannot hold.
  write(std::string("{") + tensor("b", "F16", "1", "4,6") + "," + tensor("a", "XX9", "2", "0,4") +
            "," + tensor("c", "F4", "4", "6,8") + "}   ",
        8);
  const SafetensorsReader reader(path_);
  EXPECT_EQ(reader.entries()[0].name, "a");
  EXPECT_EQ(reader.entries()[1].name, "b");
  expect_error(
      Errc::format, {"XX9", path_.string()}, [&] { dtype_from_safetensors("XX9", path_); });
  expect_error(Errc::format, {"F16"}, [&] { dtype_from_safetensors("F16", path_); });
}

TEST_F(Safetensors, DTypesHaveOneSpelling) {
  for (const DType dtype :
       {DType::f32, DType::f64, DType::bf16, DType::i8, DType::u8, DType::i32, DType::i64}) {
    EXPECT_EQ(dtype_from_safetensors(safetensors_dtype(dtype), path_), dtype);
  }
  EXPECT_EQ(safetensors_dtype(DType::bf16), "BF16");
  EXPECT_EQ(safetensors_dtype(DType::i64), "I64");
}

TEST_F(Safetensors, RefusesHeadersThatAreNotHeaders) {
  const auto refuse = [&](const std::string& bytes, std::initializer_list<std::string_view> words) {
    write(bytes);
    expect_error(Errc::format, words, [&] { SafetensorsReader reader(path_); });
  };
  refuse("", {"too few"});
  refuse("1234567", {"too few"});
  refuse(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), {"100000001", "at most 100000000"});
  refuse(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), {"at most"});
  refuse(std::string("\x03\0\0\0\0\0\0\0{}", 10), {"truncated"});
  refuse(std::string("\0\0\0\0\0\0\0\0", 8), {"not JSON"});
  expect_bad(" {}", 0, {"not JSON"});
  expect_bad("[]", 0, {"not JSON"});
  expect_bad("{", 0, {"not JSON"});
  expect_bad("{}}", 0, {"not JSON"});
  expect_bad("{\"a\":\"\xff\"}", 0, {"not JSON"});
  expect_bad(std::string(R"({"a":)") + std::string(100'000, '['), 0, {"an array"});
}

TEST_F(Safetensors, RefusesWrongTypesAndNames) {
  expect_bad(
      std::string("{") + tensor("a", "U8", "1", "0,1") + "," + tensor("a", "U8", "1", "1,2") + "}",
      2,
      {"'a'", "appears twice"});
  expect_bad(R"({"__metadata__":{"k":"1","k":"2"}})", 0, {"'k'", "appears twice"});
  expect_bad(R"({"__metadata__":{"k":1}})", 0, {"'k'", "only strings"});
  expect_bad(R"({"__metadata__":{"k":{}}})", 0, {"only strings"});
  expect_bad(R"({"__metadata__":"k"})", 0, {"a string"});
  expect_bad(R"({"a":5})", 0, {"'a'", "a number"});
  expect_bad(R"({"a":null})", 0, {"null"});
  expect_bad(R"({"a":{"dtype":"U8","shape":[1]}})", 1, {"'a'", "data_offsets"});
  expect_bad(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1, {"twice"});
  expect_bad(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":true}})", 1, {"'x'"});
  expect_bad(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}})", 1, {"a number"});
  expect_bad(
      std::string("{") + tensor("a", "U8", "1", "0,1") + ",\"b\":true}", 1, {"'b'", "boolean"});
}

TEST_F(Safetensors, RefusesNumbersThatAreNoSizes) {
  const auto bad =
      [&](const std::string& shape, const std::string& offsets, std::string_view word) {
        expect_bad(std::string("{") + tensor("a", "F32", shape, offsets) + "}", 4, {"'a'", word});
      };
  bad("1.0", "0,4", "non-integer 1.0");
  bad("1e0", "0,4", "non-integer");
  bad("-1", "0,4", "negative number -1");
  bad("1", "-4,0", "negative");
  bad("1", "0", "2 numbers");
  bad("1", "0,4,4", "2 numbers");
  bad("[1]", "0,4", "an array");
  bad("9223372036854775808", "0,4", "63 bits");
  bad("99999999999999999999999", "0,4", "non-integer");
  bad("4611686018427387904,4", "0,4", "overflows");
  bad("4611686018427387904,2", "0,4", "overflows");
  bad("2", "0,4", "needs 64 bits");
  bad("1", "4,0", "before it begins");
}

TEST_F(Safetensors, RefusesDataThatIsNotCoveredOnce) {
  const auto two = [](const std::string& a, const std::string& b, const char* size) {
    return std::string("{") + tensor("a", "U8", "4", a) + "," + tensor("b", "U8", size, b) + "}";
  };
  expect_bad(two("0,4", "3,7", "4"), 7, {"'b'", "overlapping"});
  expect_bad(two("0,4", "0,4", "4"), 4, {"overlapping"});
  expect_bad(two("0,4", "5,9", "4"), 9, {"'b'", "hole from byte 4"});
  expect_bad(two("1,5", "5,9", "4"), 9, {"'a'", "hole from byte 0"});
  expect_bad(two("0,4", "4,8", "4"), 7, {"'b'", "truncated"});
  expect_bad(two("0,4", "4,8", "4"), 9, {"1 bytes follow"});
  expect_bad("{}", 1, {"1 bytes follow"});
}

TEST_F(Safetensors, HeadersOfOursAreChecked) {
  const auto refuse = [](std::vector<SafetensorsEntry> entries) {
    expect_error(Errc::internal, {"cannot be written"}, [&] { safetensors_header(entries, {}); });
  };
  refuse({{"a", "U8", {1}}, {"a", "U8", {1}}});
  refuse({{"__metadata__", "U8", {1}}});
  refuse({{"a", "XX9", {1}}});
  refuse({{"a", "F4", {1}}});
}

TEST_F(Safetensors, ReadsAFileOfThePythonPackage) {
  if (std::system("python3 -c 'import safetensors, numpy' 2>/dev/null") != 0) {
    GTEST_SKIP() << "needs the Python packages safetensors and numpy";
  }
  const std::string script =
      "import numpy as np; from safetensors.numpy import save_file; "
      "save_file({'w': np.arange(6, dtype=np.float32).reshape(2, 3), 's': np.array(7, np.int64), "
      "'e': np.zeros((0, 4), np.uint8)}, '" +
      path_.string() + "', {'format': 'pt'})";
  ASSERT_EQ(std::system(("python3 -c \"" + script + "\"").c_str()), 0);
  const SafetensorsReader reader(path_);
  ASSERT_EQ(reader.entries().size(), 3u);
  float w[6] = {};
  reader.read(*reader.find("w"), 0, std::as_writable_bytes(std::span(w)));
  EXPECT_EQ(w[5], 5.f);
  EXPECT_EQ(reader.find("w")->shape, (std::vector<std::int64_t>{2, 3}));
  std::int64_t s = 0;
  reader.read(*reader.find("s"), 0, std::as_writable_bytes(std::span(&s, 1)));
  EXPECT_EQ(s, 7);
  EXPECT_EQ(reader.metadata().at("format"), "pt");
}

TEST_F(Safetensors, ThePythonPackageReadsOurFile) {
  if (std::system("python3 -c 'import safetensors, numpy' 2>/dev/null") != 0) {
    GTEST_SKIP() << "needs the Python packages safetensors and numpy";
  }
  std::vector<SafetensorsEntry> entries = {{"b", "F32", {1, 2}}, {"a", "U8", {0}}};
  const float values[] = {1.5f, -2.f};
  std::string data(sizeof values, '\0');
  std::memcpy(data.data(), values, sizeof values);
  write(safetensors_header(entries, {{"k", "v"}}) + data);
  const std::string script = "from safetensors.numpy import load_file; t = load_file('" +
                             path_.string() +
                             "'); assert t['b'].tolist() == [[1.5, -2.0]] and t['a'].shape == (0,)";
  EXPECT_EQ(std::system(("python3 -c \"" + script + "\"").c_str()), 0);
}

}  // namespace
}  // namespace strata::io
