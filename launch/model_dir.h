#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "checkpoint/checkpoint.h"
#include "data/tokenizer.h"
#include "models/hf.h"

namespace strata::launch {

/// A model on disk, whatever kind of directory it is: a Hugging Face directory, a run, or a
/// checkpoint.
struct ModelDir {
  std::filesystem::path path;  // of what was opened: a run's newest checkpoint
  models::ModelConfig config;
  std::unique_ptr<data::Tokenizer> tokenizer;
  models::ParamSource weights;
};
enum class NeedTokenizer : std::uint8_t { yes, no };
/// Throws format, naming what the directory lacks, and data when a needed tokenizer is missing.
ModelDir open_model(const std::filesystem::path& directory,
                    NeedTokenizer need = NeedTokenizer::yes);

/// The newest sound checkpoint of a run directory, or the directory itself if it is a checkpoint;
/// empty: neither. Damaged checkpoints of a run are named on stderr and passed over; throws format
/// when there is no other.
std::filesystem::path find_checkpoint(const std::filesystem::path& directory,
                                      checkpoint::Check check = checkpoint::Check::manifest);

/// The files that make a checkpoint or an exported directory usable alone: config.json and the
/// tokenizer's.
std::map<std::string, std::string> model_files(const models::ModelConfig& config,
                                               const data::Tokenizer& tokenizer);

}  // namespace strata::launch
