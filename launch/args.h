#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::launch {

/// One option of a command that takes no settings. A flag takes no value.
struct CommandOption {
  std::string name;  // "--max-tokens"
  std::string default_value;
  std::string help;
  enum class Kind : std::uint8_t { text, integer, number, flag } kind = Kind::text;
  enum class Presence : std::uint8_t { optional, required } presence = Presence::optional;
};

/// Words of one command, typed: what read_arguments accepted, checked against what the command
/// declares. Throws config naming the command, what it needs and what came.
class Args {
 public:
  Args(std::string command,
       std::span<const std::string> words,
       const std::vector<std::string>& positional,
       std::vector<CommandOption> options);
  /// --help was asked for and has been printed.
  bool help() const { return help_; }
  const std::string& positional(std::size_t index) const { return positional_[index]; }
  bool flag(std::string_view name) const;
  const std::string& text(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;

 private:
  const CommandOption& option(std::string_view name) const;
  std::string command_;
  std::vector<std::string> positional_;
  std::vector<CommandOption> options_;
  std::map<std::string, std::string> values_;
  bool help_ = false;
};

}  // namespace strata::launch
