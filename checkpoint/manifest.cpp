#include "checkpoint/manifest.h"

#include <algorithm>
#include <array>
#include <bit>
#include <climits>
#include <cstring>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "checkpoint/directory.h"
#include "checkpoint/manifest.pb.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"

namespace strata::checkpoint {
namespace {

constexpr std::uint32_t kFormat = 1;
constexpr std::string_view kMagic = "STRATA\x01\n";
static_assert(kMagic.size() == 8);
constexpr std::size_t kTrailerBytes = 8 + 4 + 8;

std::uint32_t trailer_crc(std::string_view message, std::uint64_t length) {
  const std::uint32_t crc = io::crc32c(std::as_bytes(std::span(message)));
  return io::crc32c(std::as_bytes(std::span(&length, 1)), crc);
}

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(Errc::format,
              fmt::format("checkpoint: '{}': {}; use another checkpoint", path.string(), what));
}

void fill(proto::TensorRec& to, const TensorRecord& from) {
  to.set_tensor(from.tensor);
  to.set_state(from.state);
  to.set_dtype(std::string(io::safetensors_dtype(from.dtype)));
  for (const std::int64_t extent : from.shape) {
    to.add_shape(extent);
  }
  for (const ShardRecord& shard : from.shards) {
    proto::ShardRec& record = *to.add_shards();
    record.set_begin(shard.begin);
    record.set_end(shard.end);
    record.set_numel(shard.numel);
    record.set_file(shard.file);
    record.set_offset(shard.offset);
    record.mutable_chunk_crc32c()->Add(shard.chunk_crcs.begin(), shard.chunk_crcs.end());
  }
}

TensorRecord tensor_record(const proto::TensorRec& from, const std::filesystem::path& path) {
  if (from.shape_size() > static_cast<int>(Shape::kMaxRank)) {
    fail(path, fmt::format("tensor '{}' has {} axes", from.tensor(), from.shape_size()));
  }
  const std::vector<std::int64_t> extents(from.shape().begin(), from.shape().end());
  TensorRecord record{from.tensor(),
                      from.state(),
                      io::dtype_from_safetensors(from.dtype(), path),
                      Shape(std::span(extents)),
                      {}};
  for (const proto::ShardRec& shard : from.shards()) {
    record.shards.push_back({shard.begin(),
                             shard.end(),
                             shard.numel(),
                             shard.file(),
                             shard.offset(),
                             {shard.chunk_crc32c().begin(), shard.chunk_crc32c().end()}});
  }
  return record;
}

/// Elements of a shape, or nothing when an extent is negative or the product leaves 63 bits.
std::optional<std::int64_t> checked_numel(const Shape& shape) {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(product, extent, &product)) {
      return std::nullopt;
    }
  }
  return product;
}

bool fits(const Manifest& manifest, const TensorRecord& tensor, const ShardRecord& shard) {
  if (shard.file < 0 || static_cast<std::size_t>(shard.file) >= manifest.files.size() ||
      shard.numel < 0) {
    return false;
  }
  const FileRecord& file = manifest.files[static_cast<std::size_t>(shard.file)];
  std::int64_t size = 0;
  return !__builtin_mul_overflow(shard.numel, size_bytes(tensor.dtype), &size) &&
         shard.offset >= file.header_bytes && shard.offset <= file.size_bytes &&
         size <= file.size_bytes - shard.offset &&
         static_cast<std::int64_t>(shard.chunk_crcs.size()) ==
             size / kChunkBytes + (size % kChunkBytes != 0 ? 1 : 0);
}

std::optional<std::string> defect_of(const Manifest& manifest, const TensorRecord& tensor) {
  const std::string name = tensor.state + ":" + tensor.tensor;
  const std::optional<std::int64_t> numel = checked_numel(tensor.shape);
  if (!numel) {
    return fmt::format("the shape of '{}' is impossible", name);
  }
  std::int64_t expected = 0;
  for (const ShardRecord& shard : tensor.shards) {
    if (!fits(manifest, tensor, shard)) {
      return fmt::format("elements [{}, {}) of '{}' lie outside their file or lack checksums",
                         shard.begin,
                         shard.end,
                         name);
    }
    if (shard.begin == shard.end && shard.numel == 0) {
      continue;
    }
    if (shard.begin != expected || shard.end < shard.begin) {
      return fmt::format(
          "elements of '{}' must be stored once: up to {} they are, the next stored "
          "range is [{}, {})",
          name,
          expected,
          shard.begin,
          shard.end);
    }
    expected = shard.end;
  }
  if (expected != *numel) {
    return fmt::format("'{}' has {} elements, {} are stored", name, *numel, expected);
  }
  return std::nullopt;
}

bool before(const TensorRecord& a, const TensorRecord& b) {
  return std::tie(a.tensor, a.state) < std::tie(b.tensor, b.state);
}

}  // namespace

std::int64_t TensorRecord::numel() const {
  std::int64_t sum = 0;
  for (const ShardRecord& shard : shards) {
    sum += shard.numel;
  }
  return sum;
}

std::string encode(const Manifest& manifest) {
  proto::Manifest message;
  message.set_format(kFormat);
  message.set_incarnation(static_cast<std::uint32_t>(manifest.incarnation));
  message.set_step(manifest.state.step);
  message.set_updates(manifest.state.updates);
  message.set_tokens(manifest.state.tokens);
  message.set_samples(manifest.state.samples);
  message.set_seed(manifest.state.seed);
  message.set_numeric_hash(manifest.state.numeric_hash);
  message.mutable_numeric_environment()->insert(manifest.state.numeric_environment.begin(),
                                                manifest.state.numeric_environment.end());
  message.mutable_settings()->insert(manifest.state.settings.begin(),
                                     manifest.state.settings.end());
  message.mutable_attached_crc32c()->insert(manifest.attached.begin(), manifest.attached.end());
  for (const FileRecord& file : manifest.files) {
    proto::FileRec& record = *message.add_files();
    record.set_name(file.name);
    record.set_size_bytes(file.size_bytes);
    record.set_header_bytes(file.header_bytes);
    record.set_header_crc32c(file.header_crc);
    record.set_writer(file.writer);
  }
  for (const TensorRecord& tensor : manifest.tensors) {
    fill(*message.add_tensors(), tensor);
  }
  // Protobuf counts a message in an int; beyond it the size wraps.
  if (message.ByteSizeLong() > INT_MAX) {
    throw Error(
        Errc::format,
        fmt::format("checkpoint: a manifest of {} bytes is over Protobuf's 2 GiB: save from "
                    "fewer, larger shards",
                    message.ByteSizeLong()));
  }
  std::string bytes = message.SerializeAsString();
  const std::uint64_t length = bytes.size();
  const std::uint32_t crc = trailer_crc(bytes, length);
  const auto append = [&](const auto& value) {
    const auto raw = std::bit_cast<std::array<char, sizeof value>>(value);
    bytes.append(raw.data(), raw.size());
  };
  append(length);
  append(crc);
  return bytes.append(kMagic);
}

Manifest decode(std::string_view bytes, const std::filesystem::path& path) {
  if (bytes.size() < kTrailerBytes || !bytes.ends_with(kMagic)) {
    fail(path, "the manifest does not end as one: it is truncated or damaged");
  }
  const std::string_view body = bytes.substr(0, bytes.size() - kTrailerBytes);
  std::uint64_t length = 0;
  std::uint32_t crc = 0;
  std::memcpy(&length, body.data() + body.size(), sizeof length);
  std::memcpy(&crc, body.data() + body.size() + sizeof length, sizeof crc);
  if (length != body.size() || crc != trailer_crc(body, length)) {
    fail(path, "the manifest does not match its checksum: it is damaged");
  }
  proto::Manifest message;
  if (body.size() > INT_MAX ||
      !message.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    fail(path, "the manifest is no Protobuf message of ours");
  }
  if (message.format() != kFormat) {
    fail(path, fmt::format("format {} is needed, the manifest has {}", kFormat, message.format()));
  }
  Manifest manifest;
  manifest.incarnation = static_cast<int>(message.incarnation());
  RunState& state = manifest.state;
  state.step = message.step();
  state.updates = message.updates();
  state.tokens = message.tokens();
  state.samples = message.samples();
  state.seed = message.seed();
  state.numeric_hash = message.numeric_hash();
  state.numeric_environment = {message.numeric_environment().begin(),
                               message.numeric_environment().end()};
  state.settings = {message.settings().begin(), message.settings().end()};
  manifest.attached = {message.attached_crc32c().begin(), message.attached_crc32c().end()};
  for (const proto::FileRec& file : message.files()) {
    manifest.files.push_back(
        {file.name(), file.size_bytes(), file.header_bytes(), file.header_crc32c(), file.writer()});
  }
  for (const proto::TensorRec& tensor : message.tensors()) {
    manifest.tensors.push_back(tensor_record(tensor, path));
  }
  return manifest;
}

void merge(Manifest& into, const Manifest& part) {
  const int base = static_cast<int>(into.files.size());
  into.files.insert(into.files.end(), part.files.begin(), part.files.end());
  for (const TensorRecord& tensor : part.tensors) {
    auto at = std::lower_bound(into.tensors.begin(), into.tensors.end(), tensor, before);
    if (at == into.tensors.end() || before(tensor, *at)) {
      at = into.tensors.insert(at, {tensor.tensor, tensor.state, tensor.dtype, tensor.shape, {}});
    }
    if (at->dtype != tensor.dtype || !(at->shape == tensor.shape)) {
      throw Error(Errc::internal,
                  fmt::format("checkpoint: ranks disagree about '{}:{}': {} {} and {} {}",
                              tensor.state,
                              tensor.tensor,
                              to_string(at->dtype),
                              to_string(at->shape),
                              to_string(tensor.dtype),
                              to_string(tensor.shape)));
    }
    for (ShardRecord shard : tensor.shards) {
      shard.file += base;
      const auto place = std::upper_bound(
          at->shards.begin(), at->shards.end(), shard, [](const auto& a, const auto& b) {
            return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
          });
      at->shards.insert(place, std::move(shard));
    }
  }
}

std::optional<std::string> defect(const Manifest& manifest) {
  for (const FileRecord& file : manifest.files) {
    if (!is_data_file_name(file.name) || file.header_bytes < 0 ||
        file.size_bytes < file.header_bytes) {
      return fmt::format("'{}' of {} bytes is no data file", file.name, file.size_bytes);
    }
  }
  const TensorRecord* last = nullptr;
  for (const TensorRecord& tensor : manifest.tensors) {
    if (std::optional<std::string> text = defect_of(manifest, tensor)) {
      return text;
    }
    if (last != nullptr && !before(*last, tensor)) {
      return fmt::format("'{}:{}' is listed twice or out of order", tensor.state, tensor.tensor);
    }
    last = &tensor;
  }
  return std::nullopt;
}

}  // namespace strata::checkpoint
