#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/io/file.h"
#include "core/io/queue.h"

namespace strata::checkpoint {

struct OpenFile {
  std::filesystem::path path;
  io::Fd fd;
};

/// CRC-32C of each kChunkBytes of a stream of bytes.
class ChunkChecksums {
 public:
  void add(std::span<const std::byte> bytes);
  std::vector<std::uint32_t> take() { return std::move(crcs_); }

 private:
  std::vector<std::uint32_t> crcs_;
  std::int64_t filled_ = 0;  // bytes of the last chunk
};

/// Bytes on their way to files, copied into a few page-aligned buffers: what was appended may
/// change at once, and small neighbours leave in one write. Files outlive it.
class DataWriter {
 public:
  explicit DataWriter(io::QueueConfig config);
  /// Copies; waits for a write only when all buffers are on their way. `checksums`, when given,
  /// sees the bytes as copied. Throws the error of an earlier write.
  void append(const OpenFile& file,
              std::int64_t offset,
              std::span<const std::byte> bytes,
              ChunkChecksums* checksums = nullptr);
  /// Waits until everything appended is written; throws the first error.
  void drain();

 private:
  static constexpr std::size_t kBufferBytes = 1 << 20;
  static constexpr std::size_t kBuffers = 8;
  struct alignas(4096) Buffer {
    std::array<std::byte, kBufferBytes> bytes;
  };
  void flush();

  std::unique_ptr<std::array<Buffer, kBuffers>> buffers_;
  std::array<std::optional<io::Ticket>, kBuffers> tickets_;
  std::size_t current_ = 0;           // buffer being filled
  std::size_t filled_ = 0;            // bytes in it
  const OpenFile* file_ = nullptr;    // where it goes
  std::int64_t offset_ = 0;           // of its first byte
  std::unique_ptr<io::Queue> queue_;  // last: drains before the buffers go
};

}  // namespace strata::checkpoint
