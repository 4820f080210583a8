#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace strata::launch {

/// A value as a source wrote it. `word`: untyped text, of the environment or the command line.
struct Raw {
  enum class Kind : std::uint8_t { word, text, integer, real, boolean, list, other };
  Kind kind = Kind::word;
  std::string text;                // list: empty; other: what it is ("a date", "a table")
  std::vector<std::string> items;  // list
};
struct Entry {
  std::string key;
  Raw raw;
  std::string origin;  // "run.toml:3", "STRATA_TRAIN__STEPS", "command line"
};

/// Where settings come from, weakest first.
struct Sources {
  std::map<std::string, std::string> restored = {};  // canonical texts of a checkpoint
  std::optional<std::filesystem::path> file = {};
  std::vector<std::pair<std::string, std::string>> environment = {};  // name, value
  std::vector<Entry> arguments = {};
};

/// The entries of a TOML file. Throws config, with file:line, when it is no TOML or is not there.
std::vector<Entry> read_config_file(const std::filesystem::path& file);
/// STRATA_SECTION__KEY -> section.key, in the spelling of the known key. Names without a double
/// underscore are no settings.
std::vector<Entry> environment_entries(
    std::span<const std::pair<std::string, std::string>> environment);
/// Variables of this process that start with STRATA_.
std::vector<std::pair<std::string, std::string>> process_environment();

/// An option of one command, beside settings: "--prompt TEXT" or, without `value`, a switch.
struct Option {
  std::string name;   // with its dashes
  std::string value;  // what help calls the value; empty: a switch
  std::string help;
};
/// A command line, read. Settings are `--key=value` or `--key value`; `-c FILE` and `--config FILE`
/// name a configuration file; `-h` and `--help` set `help`.
struct Arguments {
  bool help = false;
  std::optional<std::filesystem::path> file;
  std::vector<Entry> settings;
  std::map<std::string, std::string> options;  // by name with dashes; a switch has an empty value
  std::vector<std::string> positional;
};
/// Throws config for an unknown option (naming the nearest), a missing value and one given twice.
Arguments read_arguments(std::span<const char* const> arguments, std::span<const Option> options);
std::string options_help(std::span<const Option> options);

}  // namespace strata::launch
