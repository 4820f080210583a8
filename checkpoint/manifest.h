#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/state_dict.h"

namespace strata::checkpoint {

/// Checksums are taken over pieces of this size, counted from the start of a shard.
inline constexpr std::int64_t kChunkBytes = 256 << 10;
inline constexpr std::string_view kManifestName = "MANIFEST.pb";

struct FileRecord {
  std::string name;
  std::int64_t size_bytes = 0;
  std::int64_t header_bytes = 0;
  std::uint32_t header_crc = 0;
  int writer = 0;
};
/// One contiguous piece of a field, in one file.
struct ShardRecord {
  std::int64_t begin = 0, end = 0;  // flat element range of the tensor
  std::int64_t numel = 0;           // values stored
  int file = 0;
  std::int64_t offset = 0;  // bytes from the start of the file
  std::vector<std::uint32_t> chunk_crcs;
};
struct TensorRecord {
  std::string tensor, state;
  DType dtype = DType::f32;
  Shape shape;
  std::vector<ShardRecord> shards;  // by begin; together every element once
  std::int64_t numel() const;       // values stored
};
/// What a checkpoint is: where every value lies and what its bytes must sum to.
struct Manifest {
  RunState state;
  int incarnation = 0;
  std::vector<FileRecord> files;
  std::vector<TensorRecord> tensors;              // by (tensor, state)
  std::map<std::string, std::uint32_t> attached;  // CRC-32C of RunState::files, by name
};

/// The Protobuf message and a trailer: u64 length of the message, u32 CRC-32C of the message and
/// that length, 8 bytes of magic; little-endian.
std::string encode(const Manifest& manifest);
/// Throws format, naming `path`, when trailer, message or contents are not sound.
Manifest decode(std::string_view bytes, const std::filesystem::path& path);

/// Adds the files and shards of another rank. Throws internal when ranks disagree about a tensor.
void merge(Manifest& into, const Manifest& part);

/// What makes a manifest unusable: an element stored twice or never, a shard outside its file, a
/// file name that leaves the directory. Nothing: sound.
std::optional<std::string> defect(const Manifest& manifest);

}  // namespace strata::checkpoint
