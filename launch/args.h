#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::launch {

/// One option of a command. A flag takes no value.
struct Option {
  std::string name;           // "--max-tokens"
  std::string default_value;  // text; "" with required
  std::string help;
  enum class Kind : std::uint8_t { text, integer, number, flag } kind = Kind::text;
  enum class Presence : std::uint8_t { optional, required } presence = Presence::optional;
};

/// Words of one command: positional arguments and options, checked against what the command
/// declares. Throws config naming the word, the command's usage and, for an unknown option, the
/// nearest one.
class Args {
 public:
  Args(std::string_view command,
       std::span<const std::string> words,
       std::vector<std::string> positional,
       std::vector<Option> options);
  const std::string& positional(std::size_t index) const { return positional_[index]; }
  bool flag(std::string_view name) const;
  const std::string& text(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;

 private:
  const Option& option(std::string_view name) const;
  void set(const Option& option, std::string value);
  std::string command_;
  std::vector<std::string> positional_;
  std::vector<Option> options_;
  std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace strata::launch
