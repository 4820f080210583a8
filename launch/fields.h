#pragma once
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config.h"

namespace strata::launch {

enum class FieldType : std::uint8_t {
  integer,
  size,   // integer with a suffix k, M, G: powers of 1024
  bytes,  // 512MiB, 2GiB, or a plain number
  real,
  boolean,
  text,
  steps,  // 20:22, a number, or a word
  list,   // of texts
  list_or_fraction,
  choice,     // one of `words`
  recompute,  // by decoder block, see launch/recompute_setting.h
};
/// Whether a setting may change a bit of the result; those enter the numeric hash.
enum class Effect : std::uint8_t { none, bits };

struct Field;

/// A canonical text, read back.
class Value {
 public:
  Value(const Field& field, std::string_view text) : field_(field), text_(text) {}
  std::string text() const { return std::string(text_); }
  /// One of the field's words, which beside a number stand for "not given".
  bool is_word() const;
  std::int64_t integer() const;
  double real() const;
  bool boolean() const { return text_ == "true"; }
  bool is_list() const { return text_.starts_with('['); }
  std::vector<std::string> list() const;
  std::optional<std::int64_t> maybe_integer() const;
  StepRange steps() const;
  /// The element of `values` at the place of the text among the field's words.
  template <class T>
  T pick(std::initializer_list<T> values) const {
    return values.begin()[word_index()];
  }

 private:
  std::size_t word_index() const;
  const Field& field_;
  std::string_view text_;
};

/// One row of the table behind parser, help and schema.
struct Field {
  std::string_view key;
  FieldType type;
  std::string_view default_text;  // canonical
  Effect effect;
  std::string_view help;
  void (*store)(RunConfig&, const Value&);
  std::vector<std::string_view> words = {};  // choices, or words accepted beside a number
  double min = 0,
         max =
             std::numeric_limits<double>::infinity();  // of numbers, inclusive; of a text's length
};

/// What costs digits, and the consent to it.
std::vector<Field> lossy_fields();
/// All settings, in the order of help. Settings of an optimizer ("optim.beta1") are not among them.
std::span<const Field> fields();
const Field* find_field(std::string_view key);
/// A setting of the optimizer's method: under "optim." and not in the table.
bool is_method_setting(std::string_view key);
/// The known key that an unknown one probably means.
std::string nearest_key(std::string_view key);

/// 512MiB, 1.5 GB, or a plain number.
std::optional<std::int64_t> parse_bytes(std::string_view text);

/// What a field accepts, for messages and help: "an integer of at least 1".
std::string needed(const Field& field);
/// Canonical text of a value; nothing when the field does not accept it.
std::optional<std::string> canonical(const Field& field, const Raw& raw);
/// Canonical text of a method's setting, of which no type is known: numbers in shortest form.
std::optional<std::string> canonical_untyped(const Raw& raw);
/// A canonical text as TOML.
std::string toml_value(const Field* field, std::string_view text);

}  // namespace strata::launch
