#include "data/grammar_rules.h"

#include <charconv>

#include "core/error.h"

namespace strata::data {
namespace {

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \n");
  const std::size_t last = text.find_last_not_of(" \n");
  return first == std::string_view::npos ? std::string_view()
                                         : text.substr(first, last - first + 1);
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t end = 0; end != std::string_view::npos;) {
    end = text.find(at);
    parts.push_back(trim(text.substr(0, end)));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return parts;
}

[[noreturn]] void malformed(const std::string& what) {
  throw Error(Errc::internal, "grammar: " + what);
}

/// Definitions: a line and the lines that continue it with a space, joined by one space.
std::vector<std::string> definitions(std::string_view text) {
  std::vector<std::string> found;
  for (std::size_t end = 0; end != std::string_view::npos;) {
    end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (trim(line).empty()) {
      continue;
    }
    if (line.front() == ' ' && !found.empty()) {
      found.back() += ' ' + std::string(trim(line));
    } else {
      found.emplace_back(trim(line));
    }
  }
  return found;
}

}  // namespace

void Grammar::Rules::read(std::string_view text) {
  for (const std::string& definition : definitions(text)) {
    const std::size_t equals = definition.find('=');
    if (equals == std::string::npos) {
      malformed("no '=' in: " + definition);
    }
    const std::string_view head = trim(std::string_view(definition).substr(0, equals));
    const std::string_view body = trim(std::string_view(definition).substr(equals + 1));
    if (head.starts_with("var ")) {
      define_variable(head.substr(4), body);
    } else {
      declare_symbol(head, body);
    }
  }
  for (std::size_t i = 0; i < bodies_.size(); ++i) {
    Symbol& symbol = grammar_.symbols_[i];
    for (const Weighed& weighed : alternatives(bodies_[i])) {
      symbol.alternatives.push_back(alternative(weighed));
      symbol.total_weight += weighed.first;
    }
  }
  grammar_.root_ = symbol("story");
}

void Grammar::Rules::define_variable(std::string_view head, std::string_view body) {
  Variable variable;
  const std::size_t open = head.find('(');
  variable.name = trim(head.substr(0, open));
  for (const std::string_view form : split(head.substr(open + 1, head.size() - open - 2), ',')) {
    variable.forms.emplace_back(form);
  }
  for (const auto& [weight, text] : alternatives(body)) {
    Value value{weight, {}};
    for (const std::string_view form : split(text, '/')) {
      value.forms.emplace_back(form);
    }
    if (value.forms.size() != variable.forms.size()) {
      malformed("'" + text + "' has not the forms of " + variable.name);
    }
    variable.total_weight += weight;
    variable.values.push_back(std::move(value));
  }
  grammar_.variables_.push_back(std::move(variable));
}

void Grammar::Rules::declare_symbol(std::string_view name, std::string_view body) {
  Symbol declared;
  declared.name = name;
  grammar_.symbols_.push_back(std::move(declared));
  bodies_.emplace_back(body);
}

std::vector<Grammar::Rules::Weighed> Grammar::Rules::alternatives(std::string_view body) {
  std::vector<Weighed> found;
  for (std::string_view part : split(body, '|')) {
    int weight = 1;
    if (part.starts_with('[')) {
      const std::size_t close = part.find(']');
      std::from_chars(part.data() + 1, part.data() + close, weight);
      part = trim(part.substr(close + 1));
    }
    found.emplace_back(weight, part);
  }
  return found;
}

Grammar::Alternative Grammar::Rules::alternative(const Weighed& weighed) const {
  Alternative made;
  made.weight = weighed.first;
  std::string literal;
  const auto flush = [&] {
    if (!literal.empty()) {
      made.elements.push_back({.kind = Element::Kind::text, .text = literal, .by_value = {}});
      literal.clear();
    }
  };
  const std::string_view text = weighed.second;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '<') {
      const std::size_t close = text.find('>', at);
      flush();
      made.elements.push_back(reference(text.substr(at + 1, close - at - 1)));
      at = close;
    } else if (text.substr(at).starts_with("\\n")) {
      literal += '\n';
      ++at;
    } else {
      literal += text[at];
    }
  }
  flush();
  return made;
}

Grammar::Element Grammar::Rules::reference(std::string_view name) const {
  Element element;
  if (const std::size_t at = name.find('@'); at != std::string_view::npos) {
    element.kind = Element::Kind::symbol_by_variable;
    element.variable = variable(name.substr(at + 1));
    for (const Value& value :
         grammar_.variables_[static_cast<std::size_t>(element.variable)].values) {
      element.by_value.push_back(symbol(std::string(name.substr(0, at)) + ":" + value.forms[0]));
    }
    return element;
  }
  for (std::size_t v = 0; v < grammar_.variables_.size(); ++v) {
    const Variable& variable = grammar_.variables_[v];
    for (std::size_t form = 0; form < variable.forms.size(); ++form) {
      if (name == variable.name + "." + variable.forms[form]) {
        element.kind = Element::Kind::form;
        element.variable = static_cast<int>(v);
        element.form = static_cast<int>(form);
        return element;
      }
    }
  }
  element.kind = Element::Kind::symbol;
  element.symbol = symbol(name);
  return element;
}

int Grammar::Rules::symbol(std::string_view name) const {
  for (std::size_t i = 0; i < grammar_.symbols_.size(); ++i) {
    if (grammar_.symbols_[i].name == name) {
      return static_cast<int>(i);
    }
  }
  malformed("nothing is called <" + std::string(name) + ">");
}

int Grammar::Rules::variable(std::string_view name) const {
  for (std::size_t i = 0; i < grammar_.variables_.size(); ++i) {
    if (grammar_.variables_[i].name == name) {
      return static_cast<int>(i);
    }
  }
  malformed("no variable is called " + std::string(name));
}

}  // namespace strata::data
