#pragma once
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "models/config.h"
#include "models/model.h"

namespace strata::models {

/// Where a tensor's f32 values go or come from: elements [begin, begin + values.size()) of the
/// named parameter.
using ParamSink =
    std::function<void(const ParamSpec&, std::int64_t begin, std::span<const float> values)>;
using ParamSource =
    std::function<void(const ParamSpec&, std::int64_t begin, std::span<float> values)>;

/// Streams the weights of a Hugging Face directory (model.safetensors, or shards with an index;
/// F32, BF16, F16) into the sink, tensor by tensor in pieces. Accepts names with and without the
/// family's prefix. Throws format naming file, tensor, wanted and found shape; a tensor that is
/// missing or that nobody asked for is an error too.
void read_weights(const std::filesystem::path& directory,
                  const ModelConfig& config,
                  const ParamSink& sink);

/// The same, in whatever order the values are asked for: checks everything now, reads later.
ParamSource weights_source(const std::filesystem::path& directory, const ModelConfig& config);

/// Everything that read_weights checks before the first value moves: files, headers, names, shapes,
/// dtypes. Reads no value.
void check_weights(const std::filesystem::path& directory, const ModelConfig& config);

/// Writes config.json and model.safetensors (dtype f32 or bf16) to `directory` through a staging
/// directory, so that a reader never sees a part. Tied heads are omitted. `extra`: files to put
/// beside them (tokenizer).
struct ExtraFile {
  std::string name, content;
};
void write_model(const std::filesystem::path& directory,
                 const ModelConfig& config,
                 DType dtype,
                 const ParamSource& source,
                 std::span<const ExtraFile> extra);

/// A llama2.c checkpoint (legacy or version 1): config and weights. Throws format.
struct Llama2c {
  ModelConfig config;
  std::function<void(const ParamSpec&, std::int64_t, std::span<float>)> source;
};
Llama2c read_llama2c(const std::filesystem::path& file);

}  // namespace strata::models
