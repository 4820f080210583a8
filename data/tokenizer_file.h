#pragma once
#include <memory>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "data/tokenizer.h"

namespace strata::data {

/// The one file of each of our tokenizers: `content` (with its "kind") under our format and
/// version.
std::vector<Tokenizer::File> tokenizer_file(nlohmann::json content);
/// From the content that the llama2c tokenizer put into its file.
std::unique_ptr<Tokenizer> llama2c_tokenizer(const nlohmann::json& content);

}  // namespace strata::data
