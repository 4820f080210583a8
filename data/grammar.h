#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata::data {

/// A probabilistic grammar of texts whose entropy is known exactly, so that a model trained on its
/// output can be judged against the best loss there is.
///
/// Notation, one definition a line, continued by lines that start with a space:
///   var hero(name,he) = Mia/she | [2] Tom/he     chosen once per story; forms by name
///   meet = <hero.name> met <what@hero>. | ...     a symbol and its alternatives
/// <symbol> expands a symbol afresh, <var.form> writes a form of a variable, <symbol@var> expands
/// the symbol "symbol:FORM" where FORM is the variable's first form. [n] weighs an alternative
/// (default 1). "\n" is a line end. The symbol "story" is the root; no symbol may contain itself.
class Grammar {
 public:
  /// Throws internal for a grammar that is not well-formed: an undefined name, a symbol within
  /// itself.
  explicit Grammar(std::string_view rules);
  /// Small stories for the demonstration: four to seven sentences about somebody who carries
  /// something somewhere and meets an animal; one story a line.
  static Grammar stories();

  /// Whole stories, one after the other, until there are at least `bytes` bytes; a function of seed
  /// and bytes.
  std::string generate(std::uint64_t seed, std::int64_t bytes) const;
  /// Story number `index` of the endless text of `seed`.
  std::string story(std::uint64_t seed, std::uint64_t index) const;

  /// Entropy of a story in nats, its expected length, and their quotient, the least loss per byte
  /// that any model can have on average. Exact where every story has one derivation, which
  /// derivations() can tell.
  double entropy_nats() const { return story_.nats; }
  double expected_bytes() const { return story_.bytes; }
  double entropy_nats_per_byte() const { return story_.nats / story_.bytes; }
  /// Natural logarithm of the probability of a story; minus infinity for what is none.
  double log_probability(std::string_view story) const;
  /// In how many ways the grammar makes a story.
  std::int64_t derivations(std::string_view story) const;

 private:
  /// What an alternative is made of: literal text, or a reference by index.
  struct Element {
    enum class Kind : std::uint8_t { text, symbol, form, symbol_by_variable } kind = Kind::text;
    std::string text;
    int symbol = -1, variable = -1, form = -1;
    std::vector<int> by_value;  // symbol_by_variable: the symbol for each value
  };
  struct Alternative {
    int weight = 1;
    std::vector<Element> elements;
  };
  struct Symbol {
    std::string name;
    std::vector<Alternative> alternatives;
    int total_weight = 0;
  };
  struct Value {
    int weight = 1;
    std::vector<std::string> forms;
  };
  struct Variable {
    std::string name;
    std::vector<std::string> forms;  // names
    std::vector<Value> values;
    int total_weight = 0;
  };
  /// Value of each variable, kOpen where none is chosen yet.
  using Chosen = std::vector<int>;
  static constexpr int kOpen = -1;
  struct Measure {
    double nats = 0, bytes = 0;
  };
  class Rules;
  class Teller;
  class Parser;

  Measure measure(int symbol, Chosen& chosen, std::size_t depth) const;
  Measure measure(const Element& element, Chosen& chosen, std::size_t depth) const;

  std::vector<Symbol> symbols_;
  std::vector<Variable> variables_;
  int root_ = -1;
  Measure story_;
};

}  // namespace strata::data
