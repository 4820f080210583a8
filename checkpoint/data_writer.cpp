#include "checkpoint/data_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "checkpoint/manifest.h"

namespace strata::checkpoint {

void ChunkChecksums::add(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (crcs_.empty() || filled_ == kChunkBytes) {
      crcs_.push_back(0);
      filled_ = 0;
    }
    const std::size_t part =
        std::min(bytes.size(), static_cast<std::size_t>(kChunkBytes - filled_));
    crcs_.back() = io::crc32c(bytes.first(part), crcs_.back());
    filled_ += static_cast<std::int64_t>(part);
    bytes = bytes.subspan(part);
  }
}

DataWriter::DataWriter(io::QueueConfig config)
    : buffers_(std::make_unique<std::array<Buffer, kBuffers>>()),
      queue_(io::make_queue(std::move(config))) {}

void DataWriter::append(const OpenFile& file,
                        std::int64_t offset,
                        std::span<const std::byte> bytes,
                        ChunkChecksums* checksums) {
  const std::int64_t next = offset_ + static_cast<std::int64_t>(filled_);
  if (filled_ > 0 && (file_ != &file || offset != next)) {
    flush();
  }
  while (!bytes.empty()) {
    if (filled_ == 0) {
      if (const auto busy = std::exchange(tickets_[current_], std::nullopt)) {
        queue_->wait(*busy);
      }
      file_ = &file;
      offset_ = offset;
    }
    const std::size_t part = std::min(bytes.size(), kBufferBytes - filled_);
    std::byte* const to = (*buffers_)[current_].bytes.data() + filled_;
    std::memcpy(to, bytes.data(), part);
    if (checksums != nullptr) {
      checksums->add({to, part});
    }
    bytes = bytes.subspan(part);
    offset += static_cast<std::int64_t>(part);
    filled_ += part;
    if (filled_ == kBufferBytes) {
      flush();
    }
  }
}

void DataWriter::flush() {
  if (filled_ == 0) {
    return;
  }
  const std::span<std::byte> bytes((*buffers_)[current_].bytes.data(), filled_);
  tickets_[current_] =
      queue_->submit({io::Direction::write, file_->fd.get(), offset_, bytes, file_->path.string()});
  current_ = (current_ + 1) % kBuffers;
  filled_ = 0;
}

void DataWriter::drain() {
  flush();
  tickets_.fill(std::nullopt);
  queue_->wait_all();
}

}  // namespace strata::checkpoint
