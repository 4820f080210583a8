#pragma once
#include <filesystem>
#include <memory>

#include "data/tokens.h"

namespace strata::data {

/// Whether a file is meant as .tok: by its name or its first bytes.
bool is_tok_file(const std::filesystem::path& file);
/// Maps a .tok file after checking its header, size, tokenizer and every checksum. Throws data.
std::unique_ptr<TokenStream> open_tok(const std::filesystem::path& file,
                                      const Tokenizer& tokenizer);

}  // namespace strata::data
