#include "data/grammar.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/philox.h"
#include "data/grammar_rules.h"

namespace strata::data {
namespace {

constexpr double kImpossible = -std::numeric_limits<double>::infinity();

double log_add(double a, double b) {
  const double high = std::max(a, b);
  return high == kImpossible ? high : high + std::log1p(std::exp(std::min(a, b) - high));
}

double log_share(int weight, int total) {
  return std::log(static_cast<double>(weight) / total);
}

std::size_t index(int i) {
  return static_cast<std::size_t>(i);
}

}  // namespace

Grammar::Grammar(std::string_view rules) {
  Rules(*this).read(rules);
  // Choices follow each other and none depends on a variable's value in its odds, so the entropies
  // of all of them add up, each weighed by the chance that it is made.
  Chosen chosen(variables_.size(), kOpen);
  story_ = measure(root_, chosen, 0);
  for (const Variable& variable : variables_) {
    for (const Value& value : variable.values) {
      const double p = static_cast<double>(value.weight) / variable.total_weight;
      story_.nats -= p * std::log(p);
    }
  }
}

Grammar::Measure Grammar::measure(int symbol, Chosen& chosen, std::size_t depth) const {
  const Symbol& of = symbols_[index(symbol)];
  if (depth > symbols_.size()) {
    throw Error(Errc::internal, "grammar: <" + of.name + "> contains itself");
  }
  Measure sum;
  for (const Alternative& alternative : of.alternatives) {
    const double p = static_cast<double>(alternative.weight) / of.total_weight;
    sum.nats -= p * std::log(p);
    for (const Element& element : alternative.elements) {
      const Measure part = measure(element, chosen, depth + 1);
      sum.nats += p * part.nats;
      sum.bytes += p * part.bytes;
    }
  }
  return sum;
}

Grammar::Measure Grammar::measure(const Element& element, Chosen& chosen, std::size_t depth) const {
  if (element.kind == Element::Kind::text) {
    return {0, static_cast<double>(element.text.size())};
  }
  if (element.kind == Element::Kind::symbol) {
    return measure(element.symbol, chosen, depth);
  }
  // A variable whose value is not fixed by an enclosing <symbol@variable> is averaged over: nothing
  // outside depends on it, and expectations add up.
  const auto of_value = [&](int value) -> Measure {
    if (element.kind == Element::Kind::form) {
      const Value& v = variables_[index(element.variable)].values[index(value)];
      return {0, static_cast<double>(v.forms[index(element.form)].size())};
    }
    return measure(element.by_value[index(value)], chosen, depth);
  };
  int& choice = chosen[index(element.variable)];
  if (choice != kOpen) {
    return of_value(choice);
  }
  const Variable& variable = variables_[index(element.variable)];
  Measure mean;
  for (choice = 0; index(choice) < variable.values.size(); ++choice) {
    const double p =
        static_cast<double>(variable.values[index(choice)].weight) / variable.total_weight;
    const Measure part = of_value(choice);
    mean.nats += p * part.nats;
    mean.bytes += p * part.bytes;
  }
  choice = kOpen;
  return mean;
}

/// Tells one story: every choice takes the next random word of (seed, index of the story).
class Grammar::Teller {
 public:
  Teller(const Grammar& grammar, std::uint64_t seed, std::uint64_t story)
      : grammar_(grammar), key_{seed, RandomUse::grammar, story, 0} {
    for (const Variable& variable : grammar.variables_) {
      chosen_.push_back(static_cast<int>(choose(variable.values, variable.total_weight)));
    }
    expand(grammar.root_);
  }
  std::string text;

 private:
  template <class Choices>
  std::size_t choose(const Choices& choices, int total_weight) {
    const std::uint64_t word = key_.words(made_++)[0];
    auto rest = static_cast<int>(word * static_cast<std::uint64_t>(total_weight) >> 32);
    std::size_t i = 0;
    for (; rest >= choices[i].weight; ++i) {
      rest -= choices[i].weight;
    }
    return i;
  }
  void expand(int symbol) {
    const Symbol& of = grammar_.symbols_[index(symbol)];
    for (const Element& element :
         of.alternatives[choose(of.alternatives, of.total_weight)].elements) {
      write(element);
    }
  }
  void write(const Element& element) {
    switch (element.kind) {
      case Element::Kind::text:
        text += element.text;
        break;
      case Element::Kind::symbol:
        expand(element.symbol);
        break;
      case Element::Kind::form: {
        const auto& values = grammar_.variables_[index(element.variable)].values;
        text += values[index(value(element))].forms[index(element.form)];
        break;
      }
      case Element::Kind::symbol_by_variable:
        expand(element.by_value[index(value(element))]);
        break;
    }
  }
  int value(const Element& element) const { return chosen_[index(element.variable)]; }

  const Grammar& grammar_;
  RandomKey key_;
  std::uint64_t made_ = 0;
  Chosen chosen_;
};

std::string Grammar::story(std::uint64_t seed, std::uint64_t number) const {
  return Teller(*this, seed, number).text;
}

std::string Grammar::generate(std::uint64_t seed, std::int64_t bytes) const {
  std::string text;
  for (std::uint64_t i = 0; static_cast<std::int64_t>(text.size()) < bytes; ++i) {
    text += story(seed, i);
  }
  return text;
}

/// Finds every derivation of a text by backtracking from left to right.
class Grammar::Parser {
 public:
  Parser(const Grammar& grammar, std::string_view text)
      : grammar_(grammar), text_(text), chosen_(grammar.variables_.size(), kOpen) {
    expand(grammar.root_, nullptr, 0, 0);
  }
  double log_probability = kImpossible;
  std::int64_t derivations = 0;

 private:
  /// What is still to come after a place inside an alternative.
  struct Rest {
    const Alternative* alternative;
    std::size_t next;
    const Rest* outer;
  };

  void expand(int symbol, const Rest* rest, std::size_t at, double log_p) {
    const Symbol& of = grammar_.symbols_[index(symbol)];
    for (const Alternative& alternative : of.alternatives) {
      const Rest inner{&alternative, 0, rest};
      walk(&inner, at, log_p + log_share(alternative.weight, of.total_weight));
    }
  }

  void walk(const Rest* rest, std::size_t at, double log_p) {
    while (rest != nullptr && rest->next == rest->alternative->elements.size()) {
      rest = rest->outer;
    }
    if (rest == nullptr) {
      return finish(at, log_p);
    }
    const Element& element = rest->alternative->elements[rest->next];
    const Rest after{rest->alternative, rest->next + 1, rest->outer};
    const auto match = [&](std::string_view piece, double log_share_of_value) {
      if (text_.substr(at).starts_with(piece)) {
        walk(&after, at + piece.size(), log_p + log_share_of_value);
      }
    };
    switch (element.kind) {
      case Element::Kind::text:
        return match(element.text, 0);
      case Element::Kind::symbol:
        return expand(element.symbol, &after, at, log_p);
      case Element::Kind::form:
        return each_value(element.variable, [&](const Value& value, int, double log_value) {
          match(value.forms[index(element.form)], log_value);
        });
      case Element::Kind::symbol_by_variable:
        return each_value(element.variable, [&](const Value&, int i, double log_value) {
          expand(element.by_value[index(i)], &after, at, log_p + log_value);
        });
    }
  }

  /// The chosen value of a variable, or every value in turn where the text has not told yet.
  template <class F>
  void each_value(int variable, F&& f) {
    const Variable& of = grammar_.variables_[index(variable)];
    int& choice = chosen_[index(variable)];
    if (choice != kOpen) {
      return f(of.values[index(choice)], choice, 0.0);
    }
    for (choice = 0; index(choice) < of.values.size(); ++choice) {
      const Value& value = of.values[index(choice)];
      f(value, choice, log_share(value.weight, of.total_weight));
    }
    choice = kOpen;
  }

  void finish(std::size_t at, double log_p) {
    if (at != text_.size()) {
      return;
    }
    std::int64_t ways = 1;
    for (std::size_t v = 0; v < chosen_.size(); ++v) {
      // A variable that never showed could have had any value.
      ways *=
          chosen_[v] == kOpen ? static_cast<std::int64_t>(grammar_.variables_[v].values.size()) : 1;
    }
    derivations += ways;
    log_probability = log_add(log_probability, log_p);
  }

  const Grammar& grammar_;
  std::string_view text_;
  Chosen chosen_;
};

double Grammar::log_probability(std::string_view story) const {
  return Parser(*this, story).log_probability;
}

std::int64_t Grammar::derivations(std::string_view story) const {
  return Parser(*this, story).derivations;
}

}  // namespace strata::data
