#pragma once
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/grammar.h"

namespace strata::data {

/// Reads the notation of grammar.h into a Grammar.
class Grammar::Rules {
 public:
  explicit Rules(Grammar& grammar) : grammar_(grammar) {}
  void read(std::string_view text);

 private:
  using Weighed = std::pair<int, std::string>;  // weight, text
  void define_variable(std::string_view head, std::string_view body);
  void declare_symbol(std::string_view name, std::string_view body);
  Alternative alternative(const Weighed& weighed) const;
  Element reference(std::string_view name) const;
  int symbol(std::string_view name) const;
  int variable(std::string_view name) const;
  static std::vector<Weighed> alternatives(std::string_view body);

  Grammar& grammar_;
  std::vector<std::string> bodies_;  // of symbols_, until all names are known
};

}  // namespace strata::data
