#include "launch/config.h"

#include <algorithm>

#include <fmt/format.h>
#include <xxhash.h>

#include "core/error.h"
#include "launch/fields.h"

namespace strata::launch {
namespace {

constexpr const char* kDerivedMicroBatch = "train.seq_len and train.batch_tokens";

/// Messages are one line, whatever a quoted key or text holds.
std::string one_line(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20; }, ' ');
  return text;
}

std::string shown(const Raw& raw) {
  switch (raw.kind) {
    case Raw::Kind::text:
      return "the text '" + one_line(raw.text) + "'";
    case Raw::Kind::list:
      return fmt::format("a list of {}", raw.items.size());
    case Raw::Kind::other:
      return raw.text;
    default:
      return "'" + one_line(raw.text) + "'";
  }
}

std::string accept(const Entry& entry) {
  const Field* field = find_field(entry.key);
  if (field == nullptr && !is_method_setting(entry.key)) {
    throw Error(Errc::config,
                fmt::format("config: {}: there is no setting {}; the nearest is {}",
                            entry.origin,
                            one_line(entry.key),
                            nearest_key(entry.key)));
  }
  const auto text = field == nullptr ? canonical_untyped(entry.raw) : canonical(*field, entry.raw);
  if (!text) {
    throw Error(Errc::config,
                fmt::format("config: {}: {} needs {}, got {}",
                            entry.origin,
                            entry.key,
                            field == nullptr ? "a number, true, false or a text" : needed(*field),
                            shown(entry.raw)));
  }
  return *text;
}

std::vector<Entry> restored_entries(const std::map<std::string, std::string>& restored) {
  std::vector<Entry> entries;
  for (const auto& [key, text] : restored) {
    entries.push_back({key, {Raw::Kind::word, text, {}}, "checkpoint"});
  }
  return entries;
}

}  // namespace

Settings::Settings(const Sources& sources) {
  for (const Field& field : fields()) {
    set(std::string(field.key), std::string(field.default_text), "default");
  }
  apply(restored_entries(sources.restored));
  if (sources.file) {
    apply(read_config_file(*sources.file));
  }
  apply(environment_entries(sources.environment));
  apply(sources.arguments);
  choose_model();
  refill();
  require_consent();
}

void Settings::apply(std::span<const Entry> entries) {
  std::map<std::string, std::string> seen;
  for (const Entry& entry : entries) {
    std::string text = accept(entry);
    const auto [before, fresh] = seen.emplace(entry.key, entry.origin);
    if (!fresh) {
      throw Error(Errc::config,
                  fmt::format("config: {}: {} was already given ({}); give it once",
                              entry.origin,
                              entry.key,
                              before->second));
    }
    set(entry.key, std::move(text), entry.origin);
  }
}

void Settings::set(const std::string& key, std::string text, std::string origin) {
  values_[key] = {std::move(text), std::move(origin)};
}

void Settings::choose_model() {
  const Resolved preset = values_.at("model.preset"), init_from = values_.at("model.init_from");
  if (init_from.text.empty() && preset.text.empty()) {
    throw Error(
        Errc::config,
        fmt::format("config: {}: model.preset is empty and model.init_from is not given; one "
                    "of them says which model to train",
                    preset.origin));
  }
  if (init_from.text.empty() || preset.text.empty()) {
    return;
  }
  if (preset.origin != "default") {
    throw Error(
        Errc::config,
        fmt::format("config: {}: model.preset = {} and model.init_from = {} ({}) exclude each "
                    "other; give one",
                    preset.origin,
                    preset.text,
                    init_from.text,
                    init_from.origin));
  }
  set("model.preset", "", "model.init_from");
}

void Settings::refill() {
  config_ = {};
  for (const auto& [key, value] : values_) {
    if (const Field* field = find_field(key)) {
      field->store(config_, Value(*field, value.text));
    } else {
      config_.optim.settings.emplace_back(key.substr(std::string_view("optim.").size()),
                                          value.text);
    }
  }
}

void Settings::require_consent() const {
  const Resolved& codec = values_.at("memory.activation_codec");
  if (is_lossy(config_.memory.activation_codec) && !config_.allow_lossy) {
    throw Error(
        Errc::config,
        fmt::format("config: {}: memory.activation_codec = {} loses digits of what backward "
                    "reads, which numerics.allow_lossy = false forbids; set "
                    "--numerics.allow_lossy=true, or --memory.activation_codec=exact",
                    codec.origin,
                    codec.text));
  }
}

void Settings::complete(std::int64_t max_T,
                        std::span<const std::pair<std::string, std::string>> method_defaults) {
  TrainSettings& train = config_.train;
  if (train.seq_len == 0) {
    set("train.seq_len", std::to_string(std::min<std::int64_t>(256, max_T)), "model");
  }
  for (const auto& [name, text] : method_defaults) {
    const std::string key = "optim." + name;
    const Entry entry{key, {Raw::Kind::word, text, {}}, "default"};
    if (!values_.contains(key)) {
      set(key, accept(entry), entry.origin);
    }
  }
  refill();
  if (train.seq_len > max_T) {
    throw Error(Errc::config,
                fmt::format("config: {}: train.seq_len is at most the model's {} positions, got {}",
                            values_.at("train.seq_len").origin,
                            max_T,
                            train.seq_len));
  }
  if (config_.trace_steps.last > train.steps) {
    throw Error(Errc::config,
                fmt::format("config: {}: trace.steps = {} goes beyond the last step, train.steps = "
                            "{}; choose steps from 1 to {}, or none",
                            values_.at("trace.steps").origin,
                            values_.at("trace.steps").text,
                            train.steps,
                            train.steps));
  }
  if (train.batch_tokens % train.seq_len != 0) {
    const std::int64_t above = (train.batch_tokens / train.seq_len + 1) * train.seq_len;
    throw Error(
        Errc::config,
        fmt::format("config: {}: train.batch_tokens must be a multiple of train.seq_len = {}, "
                    "got {}; {} is",
                    values_.at("train.batch_tokens").origin,
                    train.seq_len,
                    train.batch_tokens,
                    above));
  }
  const std::int64_t sequences = train.batch_tokens / train.seq_len;
  if (train.micro_batch == 0) {
    const std::int64_t derived = default_micro_batch(train.seq_len, train.batch_tokens);
    set("train.micro_batch", std::to_string(derived), kDerivedMicroBatch);
  } else if (sequences % train.micro_batch != 0) {
    throw Error(Errc::config,
                fmt::format("config: {}: train.micro_batch must divide the {} sequences of a step "
                            "(train.batch_tokens / train.seq_len), got {}",
                            values_.at("train.micro_batch").origin,
                            sequences,
                            train.micro_batch));
  }
  refill();
}

std::string Settings::numeric_hash() const {
  std::string text;
  for (const auto& [key, value] : values_) {
    const Field* field = find_field(key);
    if (field == nullptr || field->effect == Effect::bits) {
      text += key + '=' + value.text + '\n';
    }
  }
  if (is_lossy(config_.memory.activation_codec)) {  // what is redone, is redone from what was lost
    text += "memory.recompute=" + to_string(what_is_kept(config_.memory.recompute)) + '\n';
  }
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

bool is_derived_micro_batch(const Resolved& micro_batch) {
  return micro_batch.origin == kDerivedMicroBatch;
}

std::int64_t default_micro_batch(std::int64_t seq_len, std::int64_t batch_tokens) {
  constexpr std::int64_t kTokens = 1024;  // products run near their best, activations stay small
  const std::int64_t sequences = batch_tokens / seq_len;
  std::int64_t best = 1;
  for (std::int64_t b = 2; b <= std::min(kTokens / seq_len, sequences); ++b) {
    best = sequences % b == 0 ? b : best;
  }
  return best;
}

}  // namespace strata::launch
