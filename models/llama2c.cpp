// Checkpoints of karpathy/llama2.c: the legacy layout and version 1. Both hold f32 and rotate
// interleaved pairs of each head; here the rows of q and k are permuted so that half_split RoPE
// computes the same function and the model is a plain Hugging Face Llama.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "core/error.h"
#include "core/io/file.h"
#include "models/hf.h"

namespace strata::models {
namespace {

constexpr std::uint32_t kMagic = 0x616b3432;  // "ak42"
constexpr std::int64_t kLegacyHeaderBytes = 28, kVersion1HeaderBytes = 256;

struct File {
  std::filesystem::path path;
  io::Fd fd;
  std::int64_t size_bytes = 0;

  [[noreturn]] void fail(std::string_view what) const {
    throw Error(Errc::format, fmt::format("{}: llama2.c checkpoint: {}", path.string(), what));
  }
};

struct Header {
  ModelConfig config;
  bool legacy = false;
  std::int64_t size_bytes = 0;
};

Header read_header(const File& file) {
  std::array<std::byte, kVersion1HeaderBytes> bytes{};
  const std::int64_t have = std::min(file.size_bytes, kVersion1HeaderBytes);
  if (have < kLegacyHeaderBytes) {
    file.fail(fmt::format("needs a header of {} bytes, got {}", kLegacyHeaderBytes, have));
  }
  io::read_exact(file.fd, file.path, 0, std::span(bytes).first(static_cast<std::size_t>(have)));
  const auto int_at = [&](std::size_t offset) {
    std::int32_t value = 0;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
  };
  Header header;
  header.legacy = static_cast<std::uint32_t>(int_at(0)) != kMagic;
  if (!header.legacy && int_at(4) != 1) {
    file.fail(fmt::format("version {} is not supported, only the legacy layout and 1", int_at(4)));
  }
  if (!header.legacy && have < kVersion1HeaderBytes) {
    file.fail(
        fmt::format("version 1 needs a header of {} bytes, got {}", kVersion1HeaderBytes, have));
  }
  header.size_bytes = header.legacy ? kLegacyHeaderBytes : kVersion1HeaderBytes;
  const std::size_t first = header.legacy ? 0 : 8;
  const std::int64_t vocabulary = int_at(first + 20);
  ModelConfig& c = header.config;
  c.family = Family::llama;
  c.bias = false;
  c.C = int_at(first);
  c.F = int_at(first + 4);
  c.L = int_at(first + 8);
  c.H = int_at(first + 12);
  c.K = int_at(first + 16);
  c.D = c.H > 0 ? c.C / c.H : 0;
  c.V = std::abs(vocabulary);
  c.max_T = int_at(first + 24);
  c.tied = header.legacy ? vocabulary > 0 : int_at(first + 28) % 256 != 0;
  if (!header.legacy && vocabulary < 0) {
    file.fail(fmt::format("vocabulary must be positive, got {}", vocabulary));
  }
  if (const std::string problem = c.problem(); !problem.empty()) {
    file.fail(problem);
  }
  if (c.H * c.D != c.C) {
    file.fail(fmt::format("heads must divide dim, got {} and {}", c.H, c.C));
  }
  return header;
}

/// Names of the parameters of one kind, block after block.
void append(std::vector<std::string>& names, const ModelConfig& c, std::string_view kind) {
  for (std::int64_t l = 0; l < c.L; ++l) {
    names.push_back(fmt::format("model.layers.{}.{}.weight", l, kind));
  }
}

/// The order of export.py. An empty name stands for the legacy layout's RoPE tables.
std::vector<std::string> file_order(const ModelConfig& c, bool legacy) {
  std::vector<std::string> names;
  if (legacy) {
    names.emplace_back("model.embed_tokens.weight");
    append(names, c, "input_layernorm");
  } else {
    append(names, c, "input_layernorm");
    append(names, c, "post_attention_layernorm");
    names.emplace_back("model.norm.weight");
    names.emplace_back("model.embed_tokens.weight");
  }
  for (const std::string_view kind : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    append(names, c, fmt::format("self_attn.{}", kind));
  }
  if (legacy) {
    append(names, c, "post_attention_layernorm");
  }
  for (const std::string_view kind : {"gate_proj", "down_proj", "up_proj"}) {  // w1, w2, w3
    append(names, c, fmt::format("mlp.{}", kind));
  }
  if (legacy) {
    names.emplace_back("model.norm.weight");
    names.emplace_back();
  }
  if (!c.tied) {
    names.emplace_back("lm_head.weight");
  }
  return names;
}

/// Byte offset in the file of each parameter, by name.
std::map<std::string, std::int64_t> offsets(const File& file, const Header& header) {
  const ModelConfig& c = header.config;
  std::map<std::string, std::int64_t> numel;
  for (const auto& block : build_blocks(c)) {
    for (const ParamSpec& param : block->spec().params) {
      numel[param.info.name] = param.info.shape.numel();
    }
  }
  std::map<std::string, std::int64_t> at;
  std::int64_t end = header.size_bytes;
  for (const std::string& name : file_order(c, header.legacy)) {
    if (!name.empty()) {
      at[name] = end;
    }
    end += 4 * (name.empty() ? c.max_T * c.D : numel.at(name));  // tables: cos and sin, (T, D / 2)
  }
  if (file.size_bytes != end) {
    file.fail(
        fmt::format("needs {} bytes for its header (dim {}, hidden {}, layers {}, vocabulary "
                    "{}), got {}",
                    end,
                    c.C,
                    c.F,
                    c.L,
                    c.V,
                    file.size_bytes));
  }
  return at;
}

/// Row of the file that becomes row `row` of a half_split q or k: pairs (2j, 2j + 1) of a head
/// become (j, j + D/2).
std::int64_t interleaved_row(std::int64_t row, std::int64_t D) {
  const std::int64_t head = row / D, i = row % D;
  return head * D + (i < D / 2 ? 2 * i : 2 * (i - D / 2) + 1);
}

struct Reader {
  File file;
  std::int64_t D = 0;
  std::map<std::string, std::int64_t> offset;

  void read(const ParamSpec& param, std::int64_t begin, std::span<float> values) const {
    const std::string& name = param.info.name;
    const bool rotated =
        name.ends_with("self_attn.q_proj.weight") || name.ends_with("self_attn.k_proj.weight");
    // A tensor that is not rotated is one long row.
    const std::int64_t columns = rotated ? param.info.shape.back() : param.info.shape.numel();
    while (!values.empty()) {
      const std::int64_t row = begin / columns, column = begin % columns;
      const auto n = std::min(values.size(), static_cast<std::size_t>(columns - column));
      const std::int64_t source = (rotated ? interleaved_row(row, D) : row) * columns + column;
      io::read_exact(file.fd,
                     file.path,
                     offset.at(name) + 4 * source,
                     std::as_writable_bytes(values.first(n)));
      begin += static_cast<std::int64_t>(n);
      values = values.subspan(n);
    }
  }
};

}  // namespace

Llama2c read_llama2c(const std::filesystem::path& file) {
  auto reader = std::make_shared<Reader>();
  reader->file.path = file;
  reader->file.fd = io::open_file(file, io::Open::read);
  reader->file.size_bytes = io::file_size(reader->file.fd, file);
  const Header header = read_header(reader->file);
  reader->D = header.config.D;
  reader->offset = offsets(reader->file, header);
  return {header.config,
          [reader](const ParamSpec& param, std::int64_t begin, std::span<float> values) {
            reader->read(param, begin, values);
          }};
}

}  // namespace strata::models
