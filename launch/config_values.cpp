#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/fields.h"

namespace strata::launch {
namespace {

using Text = std::optional<std::string>;
using Kind = Raw::Kind;

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

bool is_number_text(const Raw& raw) {
  return raw.kind == Kind::word || raw.kind == Kind::integer;
}

Text in_range(const Field& field, std::optional<std::int64_t> value) {
  if (!value || static_cast<double>(*value) < field.min ||
      static_cast<double>(*value) > field.max) {
    return std::nullopt;
  }
  return std::to_string(*value);
}

/// `value` times `unit`, when that is a whole number that a double holds exactly.
std::optional<std::int64_t> whole_product(double value, std::int64_t unit) {
  const double product = value * static_cast<double>(unit);
  if (!(product >= 0 && product <= 0x1p53) || product != std::floor(product)) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(product);
}

std::optional<std::int64_t> parse_size(std::string_view text) {
  constexpr std::string_view kSuffixes = "kMG";
  const std::size_t suffix = text.empty() ? std::string_view::npos : kSuffixes.find(text.back());
  if (suffix == std::string_view::npos) {
    return number<std::int64_t>(text);
  }
  const auto value = number<std::int64_t>(text.substr(0, text.size() - 1));
  return value ? whole_product(static_cast<double>(*value), std::int64_t{1} << (10 * (suffix + 1)))
               : std::nullopt;
}

}  // namespace

std::optional<std::int64_t> parse_bytes(std::string_view text) {
  struct Unit {
    std::string_view name;
    std::int64_t bytes;
  };
  constexpr std::int64_t kK = 1000;
  constexpr Unit kUnits[] = {{"KiB", std::int64_t{1} << 10},
                             {"MiB", std::int64_t{1} << 20},
                             {"GiB", std::int64_t{1} << 30},
                             {"TiB", std::int64_t{1} << 40},
                             {"KB", kK},
                             {"MB", kK * kK},
                             {"GB", kK * kK * kK},
                             {"TB", kK * kK * kK * kK},
                             {"B", 1}};
  for (const Unit& unit : kUnits) {
    if (text.ends_with(unit.name)) {
      text.remove_suffix(unit.name.size());
      while (text.ends_with(' ')) {
        text.remove_suffix(1);
      }
      const auto value = number<double>(text);
      return value ? whole_product(*value, unit.bytes) : std::nullopt;
    }
  }
  return number<std::int64_t>(text);
}

namespace {

Text canonical_real(const Field& field, std::string_view text) {
  const auto value = number<double>(text);
  if (!value || !std::isfinite(*value) || *value < field.min || *value > field.max) {
    return std::nullopt;
  }
  return fmt::format("{}", *value == 0 ? 0.0 : *value);  // no -0
}

/// JSON of texts, which is TOML too; nothing for what is no UTF-8.
Text json_text(const nlohmann::json& json) {
  try {
    return json.dump();
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::vector<std::string> split_at_commas(std::string_view text) {
  std::vector<std::string> items;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    items.emplace_back(text.substr(0, comma));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  return items;
}

/// A list, one text for a list of one, or, untyped, `a,b` or `["a", "b"]`.
Text canonical_list(const Raw& raw) {
  std::vector<std::string> items = raw.items;
  if (raw.kind == Kind::text) {
    items = {raw.text};
  } else if (raw.kind == Kind::word && !raw.text.starts_with('[')) {
    items = split_at_commas(raw.text);
  } else if (raw.kind == Kind::word) {
    const auto json = nlohmann::json::parse(raw.text, nullptr, false);
    if (!json.is_array() ||
        !std::ranges::all_of(json, [](const auto& j) { return j.is_string(); })) {
      return std::nullopt;
    }
    items = json.get<std::vector<std::string>>();
  } else if (raw.kind != Kind::list) {
    return std::nullopt;
  }
  const bool empty_item = std::ranges::find(items, "") != items.end();
  return empty_item ? std::nullopt : json_text(items);
}

std::optional<StepRange> parse_steps(std::string_view text) {
  const std::size_t colon = text.find(':');
  const auto first = number<std::int64_t>(text.substr(0, colon));
  const auto last =
      colon == std::string_view::npos ? first : number<std::int64_t>(text.substr(colon + 1));
  return first && last ? std::optional(StepRange{*first, *last}) : std::nullopt;
}

Text canonical_steps(const Field& field, std::string_view text) {
  const auto steps = parse_steps(text);
  if (!steps || static_cast<double>(steps->first) < field.min || steps->last < steps->first) {
    return std::nullopt;
  }
  return steps->first == steps->last ? fmt::format("{}", steps->first)
                                     : fmt::format("{}:{}", steps->first, steps->last);
}

Text canonical_text(const Raw& raw, double min_bytes) {
  const bool text = raw.kind == Kind::word || raw.kind == Kind::text;
  const bool one_line = raw.text.find('\n') == std::string::npos;
  if (!text || !one_line || static_cast<double>(raw.text.size()) < min_bytes ||
      !json_text(raw.text)) {
    return std::nullopt;
  }
  return raw.text;
}

}  // namespace

std::optional<std::string> canonical(const Field& field, const Raw& raw) {
  const bool text = raw.kind == Kind::word || raw.kind == Kind::text;
  if (text && std::ranges::find(field.words, raw.text) != field.words.end()) {
    return raw.text;
  }
  switch (field.type) {
    case FieldType::integer:
      return is_number_text(raw) ? in_range(field, number<std::int64_t>(raw.text)) : std::nullopt;
    case FieldType::size:
      return is_number_text(raw) || text ? in_range(field, parse_size(raw.text)) : std::nullopt;
    case FieldType::bytes:
      return is_number_text(raw) || text ? in_range(field, parse_bytes(raw.text)) : std::nullopt;
    case FieldType::real:
      return is_number_text(raw) || raw.kind == Kind::real ? canonical_real(field, raw.text)
                                                           : std::nullopt;
    case FieldType::boolean: {
      const bool known = raw.text == "true" || raw.text == "false";
      return known && (raw.kind == Kind::word || raw.kind == Kind::boolean) ? Text(raw.text)
                                                                            : std::nullopt;
    }
    case FieldType::text:
      return canonical_text(raw, field.min);
    case FieldType::steps:
      return is_number_text(raw) || text ? canonical_steps(field, raw.text) : std::nullopt;
    case FieldType::list:
      return canonical_list(raw);
    case FieldType::list_or_fraction:
      if ((raw.kind == Kind::word && number<double>(raw.text)) || raw.kind == Kind::integer ||
          raw.kind == Kind::real) {
        return canonical_real(field, raw.text);
      }
      return canonical_list(raw);
    case FieldType::choice:
      return std::nullopt;
    case FieldType::recompute: {
      const auto setting = text ? parse_recompute(raw.text) : std::nullopt;
      return setting ? Text(to_string(*setting)) : std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<std::string> canonical_untyped(const Raw& raw) {
  if (raw.kind == Kind::other || raw.kind == Kind::list) {
    return std::nullopt;
  }
  if (const auto integer = number<std::int64_t>(raw.text)) {
    return std::to_string(*integer);
  }
  const auto real = number<double>(raw.text);
  return real && std::isfinite(*real) ? fmt::format("{}", *real)
                                      : canonical_text({Kind::text, raw.text, {}}, 0);
}

std::string toml_value(const Field* field, std::string_view text) {
  const auto value = number<double>(text);
  const bool number_like = value && std::isfinite(*value);
  const bool boolean = text == "true" || text == "false";
  const bool bare = field == nullptr                    ? number_like || boolean
                    : field->type == FieldType::text    ? false
                    : field->type == FieldType::boolean ? boolean
                                                        : number_like || text.starts_with('[');
  return bare ? std::string(text) : json_text(std::string(text)).value();
}

bool Value::is_word() const {
  return std::ranges::find(field_.words, text_) != field_.words.end();
}

std::size_t Value::word_index() const {
  const auto found = std::ranges::find(field_.words, text_);
  STRATA_ASSERT(found != field_.words.end());
  return static_cast<std::size_t>(found - field_.words.begin());
}

std::int64_t Value::integer() const {
  return number<std::int64_t>(text_).value();
}

double Value::real() const {
  return number<double>(text_).value();
}

std::vector<std::string> Value::list() const {
  return nlohmann::json::parse(text_).get<std::vector<std::string>>();
}

StepRange Value::steps() const {
  return parse_steps(text_).value();
}

std::optional<std::int64_t> Value::maybe_integer() const {
  return is_word() ? std::nullopt : std::optional(integer());
}

}  // namespace strata::launch
