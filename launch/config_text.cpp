#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "launch/config.h"
#include "launch/fields.h"
#include "optim/optimizer.h"

namespace strata::launch {
namespace {

using Json = nlohmann::ordered_json;

std::string value_name(const Field& field) {
  switch (field.type) {
    case FieldType::integer:
    case FieldType::size:
      return "N";
    case FieldType::bytes:
      return "BYTES";
    case FieldType::real:
      return "X";
    case FieldType::boolean:
      return "true|false";
    case FieldType::text:
      return "TEXT";
    case FieldType::steps:
      return "FIRST:LAST";
    case FieldType::list:
    case FieldType::list_or_fraction:
      return "A,B";
    case FieldType::choice:
      return fmt::format("{}", fmt::join(field.words, "|"));
    case FieldType::recompute:
      return "HOW";
  }
  return {};
}

bool under(std::string_view key, std::string_view prefix) {
  return key.starts_with(prefix) && (key.size() == prefix.size() || key[prefix.size()] == '.');
}

std::string help_line(std::string_view left, std::string_view help) {
  constexpr std::size_t kColumn = 38;
  if (left.size() + 4 > kColumn) {
    return fmt::format("  {}\n{:{}}{}\n", left, "", kColumn, help);
  }
  return fmt::format("  {:<{}}{}\n", left, kColumn - 2, help);
}

Json with_words(Json type, const Field& field) {
  if (field.words.empty()) {
    return type;
  }
  Json words = Json::array();
  for (const std::string_view word : field.words) {
    words.push_back(std::string(word));
  }
  return {{"anyOf", Json::array({std::move(type), Json{{"enum", std::move(words)}}})}};
}

Json number_schema(const Field& field, const char* type) {
  Json schema{{"type", type}, {"minimum", field.min}};
  if (std::isfinite(field.max)) {
    schema["maximum"] = field.max;
  }
  return schema;
}

Json accepted(const Field& field) {
  const Json texts{{"type", "array"}, {"items", {{"type", "string"}}}};
  const auto with_text = [](Json number, const char* pattern) {
    const Json text{{"type", "string"}, {"pattern", pattern}};
    return Json{{"anyOf", Json::array({std::move(number), text})}};
  };
  switch (field.type) {
    case FieldType::integer:
      return with_words(number_schema(field, "integer"), field);
    case FieldType::size:
      return with_words(with_text(number_schema(field, "integer"), "^[0-9]+[kMG]?$"), field);
    case FieldType::bytes:
      return with_words(with_text(number_schema(field, "integer"), "^[0-9.]+ *([KMGT]i?B|B)?$"),
                        field);
    case FieldType::real:
      return with_words(number_schema(field, "number"), field);
    case FieldType::boolean:
      return with_words({{"type", "boolean"}}, field);
    case FieldType::text:
      return {{"type", "string"}};
    case FieldType::steps:
      return with_words(with_text(number_schema(field, "integer"), "^[0-9]+(:[0-9]+)?$"), field);
    case FieldType::list:
      return {{"anyOf", Json::array({texts, Json{{"type", "string"}}})}};
    case FieldType::list_or_fraction:
      return {{"anyOf",
               Json::array({texts, Json{{"type", "string"}}, number_schema(field, "number")})}};
    case FieldType::choice:
      return {{"enum", field.words}};
    case FieldType::recompute: {
      constexpr const char* kOne = "[0-9]+(-[0-9]+)?:(none|elementwise|mlp|projections|block)";
      const auto pattern =
          fmt::format("^(auto|none|elementwise|mlp|projections|block|{0}(,{0})*)$", kOne);
      return {{"type", "string"}, {"pattern", pattern}};
    }
  }
  return {};
}

std::string range_text(const Field& field) {
  if (std::isfinite(field.max)) {
    return fmt::format(" from {} to {}", field.min, field.max);
  }
  return fmt::format(" of at least {}", field.min);
}

/// The settings of every method beside optim.method, each with the methods that take it.
void add_method_settings(Json& optim) {
  std::map<std::string, std::pair<std::string, std::string>> known;  // help, methods
  for (const std::string& method : optim::optimizer_names()) {
    for (const optim::SettingInfo& info : optim::optimizer_settings(method)) {
      auto& [help, methods] = known[info.name];
      help = info.help;
      methods += (methods.empty() ? "" : ", ") + method + " [" + info.default_value + "]";
    }
  }
  for (const auto& [name, text] : known) {
    Json* at = &optim;
    std::string_view rest = name;
    for (std::size_t dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
      at = &(*at)["properties"][std::string(rest.substr(0, dot))];
      (*at)["type"] = "object";
      rest.remove_prefix(dot + 1);
    }
    (*at)["properties"][std::string(rest)] = {
        {"type", {"string", "number", "boolean"}},
        {"description", text.first + "; method [default]: " + text.second}};
  }
}

}  // namespace

std::string needed(const Field& field) {
  std::string words;
  for (const std::string_view word : field.words) {
    words += fmt::format("{}{}", words.empty() ? "" : ", ", word);
  }
  const auto or_words = [&](const std::string& what) {
    return words.empty() ? what : what + ", or " + words;
  };
  switch (field.type) {
    case FieldType::integer:
      return or_words("an integer" + range_text(field));
    case FieldType::size:
      return or_words("an integer" + range_text(field) + " (k, M, G: powers of 1024)");
    case FieldType::bytes:
      return or_words("bytes, such as 512MiB or 2GiB");
    case FieldType::real:
      return or_words("a number" + range_text(field));
    case FieldType::boolean:
      return or_words("true or false");
    case FieldType::steps:
      return or_words("a step, or FIRST:LAST with FIRST at most LAST");
    case FieldType::text:
      return field.min > 0 ? "a text of one line, not empty" : "a text of one line";
    case FieldType::list:
      return "a list of texts";
    case FieldType::list_or_fraction:
      return "a list of files or a number" + range_text(field);
    case FieldType::choice:
      return field.words.size() == 1 ? words : "one of " + words;
    case FieldType::recompute:
      return std::string(kRecomputeTexts);
  }
  return {};
}

std::string settings_help(std::span<const std::string_view> prefixes) {
  std::string text;
  for (const Field& field : fields()) {
    if (std::ranges::any_of(prefixes, [&](std::string_view p) { return under(field.key, p); })) {
      const std::string_view initial = field.default_text.empty() ? "none" : field.default_text;
      text += help_line(fmt::format("--{}={}", field.key, value_name(field)),
                        fmt::format("{} [{}]", field.help, initial));
    }
  }
  return text;
}

std::string options_help(std::span<const Option> options) {
  std::string text;
  for (const Option& option : options) {
    text += help_line(option.value.empty() ? option.name : option.name + " " + option.value,
                      option.help);
  }
  return text;
}

std::string settings_schema() {
  Json root{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
            {"title", "strata run configuration"},
            {"type", "object"},
            {"additionalProperties", false},
            {"properties", Json::object()}};
  for (const Field& field : fields()) {
    Json* at = &root;
    std::string_view rest = field.key;
    for (std::size_t dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
      const std::string section(rest.substr(0, dot));
      at = &(*at)["properties"][section];
      // A method's own settings stand beside optim.method.
      (*at)["type"] = "object";
      (*at)["additionalProperties"] = section == "optim";
      rest.remove_prefix(dot + 1);
    }
    Json schema = accepted(field);
    schema["description"] = field.help;
    schema["default"] = Json::parse(toml_value(&field, field.default_text));
    (*at)["properties"][std::string(rest)] = std::move(schema);
  }
  add_method_settings(root["properties"]["optim"]);
  return root.dump(2) + "\n";
}

std::string Settings::toml() const {
  std::string text;
  const auto line = [&](const std::string& key) {
    text += key + " = " + toml_value(find_field(key), values_.at(key).text) + "\n";
  };
  for (const Field& field : fields()) {
    if (field.key != "resume" && field.key != "run.dir") {  // of one start, not of the computation
      line(std::string(field.key));
    }
  }
  for (const auto& [key, value] : values_) {
    if (is_method_setting(key)) {
      line(key);
    }
  }
  return text;
}

}  // namespace strata::launch
