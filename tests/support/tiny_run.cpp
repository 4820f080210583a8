#include "tests/support/tiny_run.h"

#include <algorithm>
#include <csignal>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

namespace strata::tests {
namespace {

namespace fs = std::filesystem;

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void expect_line(const CommandEnd& end,
                 std::string_view line,
                 int code,
                 std::initializer_list<std::string_view> words) {
  EXPECT_EQ(end.exit_code, code) << end.text();
  EXPECT_EQ(end.out, "") << end.text();
  EXPECT_TRUE(line.starts_with("strata: ")) << end.text();
  for (const std::string_view word : words) {
    EXPECT_NE(line.find(word), std::string_view::npos) << "no '" << word << "': " << end.text();
  }
}

}  // namespace

TinyRuns::TinyRuns() {
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += "the cat number " + std::to_string(i) + " sat on the mat\n";
  }
  file("text", text);
}

Words TinyRuns::train(const std::string& name, const Words& more) const {
  Words words{"train"};
  const auto key = [](const std::string& word) { return word.substr(0, word.find('=')); };
  for (const std::string& word : {std::string("--model.preset=tiny-gpt2"),
                                  std::string("--model.L=1"),
                                  std::string("--model.C=16"),
                                  std::string("--model.H=2"),
                                  std::string("--train.seq_len=16"),
                                  std::string("--train.batch_tokens=64"),
                                  std::string("--train.steps=6"),
                                  std::string("--checkpoint.every=1"),
                                  std::string("--threads=1"),
                                  "--data.train=" + (dir_ / "text").string(),
                                  "--run.dir=" + (dir_ / name).string()}) {
    if (std::ranges::none_of(more, [&](const auto& other) { return key(other) == key(word); })) {
      words.push_back(word);
    }
  }
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

fs::path TinyRuns::killed(const std::string& name) const {
  const CommandEnd end =
      run_command(train(name), {.environment = {{"STRATA_KILL_AT", "train.step:4"}}});
  EXPECT_EQ(end.signal, SIGKILL) << end.text();
  return dir_ / name;
}

fs::path TinyRuns::finished(const std::string& name) const {
  const CommandEnd end = run_command(train(name));
  EXPECT_EQ(end.exit_code, 0) << end.text();
  return dir_ / name;
}

fs::path TinyRuns::file(const std::string& name, std::string_view bytes) const {
  std::ofstream(dir_ / name, std::ios::binary) << bytes;
  return dir_ / name;
}

std::map<std::string, std::string> TinyRuns::contents() const {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(dir_.path())) {
    const std::string name = entry.path().lexically_relative(dir_.path());
    if (entry.is_directory()) {
      all[name + "/"] = "";
    } else if (entry.path().filename() != "lock") {
      all[name] = bytes_of(entry.path());
    }
  }
  return all;
}

void expect_refused(const CommandEnd& end,
                    int code,
                    std::initializer_list<std::string_view> words) {
  expect_line(end, end.err, code, words);
  EXPECT_EQ(std::ranges::count(end.err, '\n'), 1) << end.text();
  EXPECT_TRUE(end.err.ends_with('\n')) << end.text();
}

void expect_stopped(const CommandEnd& end,
                    int code,
                    std::initializer_list<std::string_view> words) {
  const std::string_view all = std::string_view(end.err).substr(0, end.err.rfind('\n'));
  expect_line(end, all.substr(all.rfind('\n') + 1), code, words);
  EXPECT_TRUE(end.err.ends_with('\n')) << end.text();
}

void expect_identical(const fs::path& a, const fs::path& b) {
  const CommandEnd end = run_command({"inspect", "diff", a, b, "--json"});
  EXPECT_EQ(end.out, "{\"first_difference\":null,\"identical\":true}\n") << end.text();
}

void flip_bit(const fs::path& file, std::int64_t bit) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(bit / 8);
  const auto byte = static_cast<char>(stream.get() ^ (1 << (bit % 8)));
  stream.seekp(bit / 8);
  stream.put(byte);
}

}  // namespace strata::tests
