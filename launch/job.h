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
  models::ParamSource init;  // of the initial weights; empty: random ones
};

/// Whether a job needs text: a plan of a preset does not.
enum class Text : std::uint8_t { required, optional };

/// Resolves settings. `checkpoint`: where the model and tokenizer of a resumed run come from;
/// empty: a fresh run. Throws config, data or format, before anything is written.
Job make_job(Settings settings,
             const std::filesystem::path& checkpoint,
             Text text,
             RankPlace place = {});

/// The order of blocks and micro-batches when train.order leaves it open.
Order default_order(Summation summation);

// The parts of make_job that a change of settings repeats.
/// Derives what depends on the model and the method. Throws config.
void complete(Settings& settings, const models::ModelConfig& model);
Computation computation_of(const Settings& settings,
                           const models::ModelConfig& model,
                           const JobData& data,
                           RankPlace place);

}  // namespace strata::launch
