// The README as a new user reads it: its commands run, the paths it names exist.
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "tests/support/command.h"
#include "tests/support/temp_dir.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
const fs::path kRoot = STRATA_SOURCE_DIR;

std::string read(const fs::path& file) {
  std::ifstream in(file);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
  }
  return lines;
}

struct Fence {
  std::string language;
  std::vector<std::string> lines;
};

std::vector<Fence> fences(const fs::path& file) {
  std::vector<Fence> all;
  bool inside = false;
  for (const std::string& line : lines_of(read(file))) {
    if (line.starts_with("```")) {
      inside = !inside;
      if (inside) {
        all.push_back({line.substr(3), {}});
      }
    } else if (inside) {
      all.back().lines.push_back(line);
    }
  }
  return all;
}

/// A command, and what its comment says that it prints: "strata ...   # prints identical".
struct CommandLine {
  std::string text, prints;
};

/// Commands of all `sh` fences in order; a trailing backslash joins lines. Without
/// launch/quickstart and tests/run: they build the program and run this test, and .ci/run does what
/// they do.
std::vector<CommandLine> readme_commands() {
  constexpr std::string_view kPrints = "# prints ";
  std::vector<CommandLine> commands;
  for (const Fence& fence : fences(kRoot / "README.md")) {
    if (fence.language != "sh") {
      continue;
    }
    std::string text;
    for (const std::string& line : fence.lines) {
      text += line;
      if (text.ends_with('\\')) {
        text.back() = ' ';
        continue;
      }
      const bool here = text.starts_with("launch/quickstart") || text.starts_with("tests/run");
      if (!here && !text.empty() && !text.starts_with('#')) {
        const std::size_t at = text.find(kPrints);
        commands.push_back({text, at == std::string::npos ? "" : text.substr(at + kPrints.size())});
      }
      text.clear();
    }
  }
  return commands;
}

std::string quoted(const fs::path& path) {
  return "'" + path.string() + "'";
}

/// Runs one line with bash in `directory`, the built program first in PATH; returns its exit code.
int run_line(const std::string& line, const fs::path& directory, std::string& output) {
  const fs::path script = directory / ".line.sh", log = directory / ".line.log";
  std::ofstream(script) << "cd " << quoted(directory)
                        << "\nunset STRATA_KILL_AT\nexport OMPI_ALLOW_RUN_AS_ROOT=1 "
                           "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\nPATH="
                        << quoted(fs::path(STRATA_BINARY).parent_path()) << ":$PATH\n"
                        << line << "\n";
  const std::string command = "timeout 120 bash -euo pipefail " + quoted(script) + " > " +
                              quoted(log) + " 2>&1 < /dev/null";
  const int status = std::system(command.c_str());
  output = read(log);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Text like anybody's: sentences that a model of bytes can learn something from.
std::string some_text() {
  const char* who[] = {"The cat", "A small dog", "The old man", "My sister"};
  const char* does[] = {"sees", "likes", "follows", "does not know"};
  const char* what[] = {"the garden", "a red ball", "the café", "this long road"};
  std::string text;
  for (unsigned i = 0; i < 600; ++i) {
    const unsigned k = i * 2654435761u >> 16;
    text += std::string(who[k % 4]) + " " + does[k / 4 % 4] + " " + what[k / 16 % 4] + ".\n";
  }
  return text;
}

/// Writes the text and every `toml` fence, whose first line is a comment with its name.
void set_up(const fs::path& directory) {
  std::ofstream(directory / "my.txt") << some_text();
  for (const Fence& fence : fences(kRoot / "README.md")) {
    if (fence.language == "toml") {
      ASSERT_FALSE(fence.lines.empty());
      ASSERT_TRUE(fence.lines[0].starts_with("# ")) << fence.lines[0];
      std::ofstream file(directory / fence.lines[0].substr(2));
      for (const std::string& line : fence.lines) {
        file << line << "\n";
      }
    }
  }
}

/// Whether a command needs mpirun, or what one that does has written.
bool is_about_ranks(const CommandLine& command) {
  return command.text.find("mpirun") != std::string::npos ||
         command.text.find("runs/two") != std::string::npos;
}

bool is_about_stories(const CommandLine& command) {
  return command.text.find("stories260K") != std::string::npos;
}

void expect_all_run(const std::vector<CommandLine>& commands, const fs::path& directory) {
  ASSERT_FALSE(commands.empty());
  for (const CommandLine& command : commands) {
    std::string output;
    ASSERT_EQ(run_line(command.text, directory, output), 0) << command.text << "\n" << output;
    EXPECT_NE(output.find(command.prints), std::string::npos) << command.text << "\n" << output;
  }
}

TEST(Readme, EveryCommandRuns) {
  const TempDir directory;
  set_up(directory.path());
  auto commands = readme_commands();
  std::erase_if(commands, is_about_stories);
  if (mpirun().empty()) {
    std::erase_if(commands, is_about_ranks);
  }
  expect_all_run(commands, directory.path());
}

TEST(Readme, CommandsAboutAModelOfLlama2cRun) {
  const TempDir directory;
  for (const char* name : {"stories260K.bin", "tok512.bin"}) {
    const fs::path file = test_data(fs::path("weights/stories260K") / name);
    if (file.empty()) {
      GTEST_SKIP() << "weights/stories260K/" << name << " is not in STRATA_TEST_DATA";
    }
    fs::copy_file(file, directory / name);
  }
  set_up(directory.path());
  auto commands = readme_commands();
  std::erase_if(commands, [](const CommandLine& command) { return !is_about_stories(command); });
  expect_all_run(commands, directory.path());
}

std::vector<fs::path> readmes() {
  std::vector<fs::path> found;
  for (auto it = fs::recursive_directory_iterator(kRoot); it != fs::recursive_directory_iterator();
       ++it) {
    const std::string name = it->path().filename();
    if (it->is_directory() && (name.starts_with('.') || name.starts_with("build"))) {
      it.disable_recursion_pending();
    } else if (name == "README.md") {
      found.push_back(it->path());
    }
  }
  return found;
}

/// Whether a word between backticks claims to be a path of the tree: it lies in one of our folders
/// or ends like one of our sources. NAME and <...> stand for something else.
bool claims_to_be_a_path(const std::string& word) {
  static const std::regex source(R"([\w./-]*/[\w.-]+\.(h|cpp|proto|cmake|md|txt|sh))");
  const std::size_t slash = word.find('/');
  if (slash == std::string::npos || word.find_first_of(" <>*=|@") != std::string::npos ||
      word.find("NAME") != std::string::npos) {
    return false;
  }
  const std::string folder = word.substr(0, slash);
  for (const char* ours : {".ci",
                           "checkpoint",
                           "cmake",
                           "core",
                           "data",
                           "launch",
                           "models",
                           "offload",
                           "optim",
                           "parallel",
                           "tests"}) {
    if (folder == ours) {
      return true;
    }
  }
  return std::regex_match(word, source);
}

std::string without_fences(const fs::path& file) {
  std::string text;
  bool inside = false;
  for (const std::string& line : lines_of(read(file))) {
    const bool fence = line.starts_with("```");
    inside = fence != inside;
    if (!fence && !inside) {
      text += line + "\n";
    }
  }
  return text;
}

TEST(Readme, EveryPathNamedInAReadmeExists) {
  static const std::regex code("`([^`\n]+)`"), link(R"(\]\(([^)#:]+)\))");
  int checked = 0;
  for (const fs::path& file : readmes()) {
    const std::string text = without_fences(file);
    for (std::sregex_iterator it(text.begin(), text.end(), code), end; it != end; ++it) {
      const std::string word = (*it)[1];
      if (claims_to_be_a_path(word)) {
        ++checked;
        EXPECT_TRUE(fs::exists(kRoot / word)) << file << " names " << word;
      }
    }
    for (std::sregex_iterator it(text.begin(), text.end(), link), end; it != end; ++it) {
      ++checked;
      EXPECT_TRUE(fs::exists(file.parent_path() / (*it)[1].str())) << file << " links " << (*it)[1];
    }
  }
  EXPECT_GE(checked, 50);
}

TEST(Readme, EveryFolderHasOne) {
  for (const auto& entry : fs::directory_iterator(kRoot)) {
    const std::string name = entry.path().filename();
    if (entry.is_directory() && exists(entry.path() / "CMakeLists.txt") &&
        !name.starts_with("build")) {
      EXPECT_TRUE(exists(entry.path() / "README.md")) << name;
    }
  }
}

}  // namespace
}  // namespace strata::tests
