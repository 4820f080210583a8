#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "data/tokens.h"
#include "launch/assemble.h"
#include "launch/config.h"

namespace strata::launch {

/// Text and its tokenizer, split into what trains and what validates.
struct JobData {
  std::unique_ptr<data::Tokenizer> tokenizer;
  std::unique_ptr<data::TokenStream> text, valid_text;  // as files
  std::unique_ptr<data::TokenStream> train, valid;      // as used; valid may be absent
};

/// Settings resolved against data and model: everything a run computes, nothing allocated.
struct Job {
  Settings settings;
  JobData data;
  Computation computation;
  /// Streams the initial weights; empty: random ones.
  std::function<void(const models::ParamSink&)> init;
};

/// Whether a job needs text: a plan of a preset does not.
enum class Text : std::uint8_t { required, optional };

/// Resolves settings. `checkpoint`: where the model and tokenizer of a resumed run come from;
/// empty: a fresh run. Throws config, data or format, before anything is written.
Job make_job(Settings settings, const std::filesystem::path& checkpoint, Text text, int world = 1);

/// Budgets of the settings; `minimum` is what the plan needs.
offload::Budgets budgets_of(const RunConfig& config, const offload::Plan& plan);

}  // namespace strata::launch
