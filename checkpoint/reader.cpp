#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/directory.h"
#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/io/file.h"

namespace strata::checkpoint {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const std::string& what) {
  throw Error(Errc::format,
              fmt::format("checkpoint: '{}': {}; use another checkpoint", path.string(), what));
}

/// The first tensor that lies in a file, for messages.
std::string tensor_in(const Manifest& manifest, std::size_t file) {
  for (const TensorRecord& tensor : manifest.tensors) {
    for (const ShardRecord& shard : tensor.shards) {
      if (static_cast<std::size_t>(shard.file) == file) {
        return tensor.state + ":" + tensor.tensor;
      }
    }
  }
  return "nothing";
}

void check_files(const Manifest& manifest, const fs::path& directory) {
  for (std::size_t i = 0; i < manifest.files.size(); ++i) {
    const FileRecord& file = manifest.files[i];
    std::error_code error;
    const auto size = fs::file_size(directory / file.name, error);
    if (error) {
      fail(directory / file.name,
           fmt::format("the data file of '{}' cannot be found: {}",
                       tensor_in(manifest, i),
                       error.message()));
    }
    if (size != static_cast<std::uintmax_t>(file.size_bytes)) {
      fail(directory / file.name,
           fmt::format("the data file of '{}' has {} bytes, its manifest says {}",
                       tensor_in(manifest, i),
                       size,
                       file.size_bytes));
    }
  }
}

/// Fills RunState::files; they are small.
void read_attached(Manifest& manifest, const fs::path& directory) {
  for (const auto& [name, crc] : manifest.attached) {
    const fs::path path = directory / name;
    std::error_code unreadable;
    if (name.find('/') != std::string::npos || !fs::exists(path, unreadable)) {
      fail(directory, fmt::format("'{}' is missing", name));
    }
    std::string content = io::read_text(path);
    if (io::crc32c(std::as_bytes(std::span(content))) != crc) {
      fail(path, "the file does not match its checksum: it is damaged");
    }
    manifest.state.files[name] = std::move(content);
  }
}

}  // namespace

struct Reader::Impl {
  fs::path directory;
  Manifest manifest;
  std::vector<Stored> tensors;
  std::map<std::pair<std::string, std::string>, std::size_t> index;

  const TensorRecord& find(const std::string& tensor, const std::string& state) const;
  void read_shard(const TensorRecord& tensor,
                  const ShardRecord& shard,
                  std::int64_t begin,
                  std::span<std::byte> to) const;
  void check_header(const FileRecord& file) const;
};

Reader::Reader(const fs::path& directory) : impl_(std::make_unique<Impl>()) {
  const fs::path path = directory / kManifestName;
  std::error_code unreadable;  // as good as absent
  if (!fs::exists(path, unreadable)) {
    fail(directory, fmt::format("there is no {}: this is no complete checkpoint", kManifestName));
  }
  impl_->directory = directory;
  impl_->manifest = decode(io::read_text(path), path);
  if (const std::optional<std::string> text = defect(impl_->manifest)) {
    fail(path, *text);
  }
  check_files(impl_->manifest, directory);
  read_attached(impl_->manifest, directory);
  for (const TensorRecord& tensor : impl_->manifest.tensors) {
    impl_->index[{tensor.tensor, tensor.state}] = impl_->tensors.size();
    impl_->tensors.push_back(
        {tensor.tensor, tensor.state, tensor.dtype, tensor.shape, tensor.numel()});
  }
}

Reader::~Reader() = default;

const RunState& Reader::state() const {
  return impl_->manifest.state;
}

const std::vector<Reader::Stored>& Reader::tensors() const {
  return impl_->tensors;
}

const TensorRecord& Reader::Impl::find(const std::string& tensor, const std::string& state) const {
  const auto found = index.find({tensor, state});
  if (found == index.end()) {
    throw Error(Errc::format,
                fmt::format("checkpoint: '{}' holds no '{}:{}': it was saved by another model or "
                            "optimizer",
                            directory.string(),
                            state,
                            tensor));
  }
  return manifest.tensors[found->second];
}

/// Bytes [begin, begin + to.size()) of a shard, through whole chunks.
void Reader::Impl::read_shard(const TensorRecord& tensor,
                              const ShardRecord& shard,
                              std::int64_t begin,
                              std::span<std::byte> to) const {
  const fs::path path = directory / manifest.files[static_cast<std::size_t>(shard.file)].name;
  const io::Fd fd = io::open_file(path, io::Open::read);
  const std::int64_t size = shard.numel * size_bytes(tensor.dtype);
  const std::int64_t end = begin + static_cast<std::int64_t>(to.size());
  std::vector<std::byte> chunk;
  for (std::int64_t at = begin / kChunkBytes * kChunkBytes; at < end; at += kChunkBytes) {
    chunk.resize(static_cast<std::size_t>(std::min(kChunkBytes, size - at)));
    io::read_exact(fd, path, shard.offset + at, chunk);
    if (io::crc32c(chunk) != shard.chunk_crcs[static_cast<std::size_t>(at / kChunkBytes)]) {
      fail(path,
           fmt::format("bytes {} to {} of '{}:{}' do not match their checksum: the file is damaged",
                       shard.offset + at,
                       shard.offset + at + static_cast<std::int64_t>(chunk.size()),
                       tensor.state,
                       tensor.tensor));
    }
    const std::int64_t from = std::max(at, begin);
    const std::int64_t until = std::min(at + static_cast<std::int64_t>(chunk.size()), end);
    std::memcpy(to.data() + (from - begin),
                chunk.data() + (from - at),
                static_cast<std::size_t>(until - from));
  }
}

void Reader::read(const std::string& tensor,
                  const std::string& state,
                  std::int64_t begin,
                  std::span<std::byte> to) const {
  const TensorRecord& record = impl_->find(tensor, state);
  const std::int64_t value_bytes = size_bytes(record.dtype);
  const auto size = static_cast<std::int64_t>(to.size());
  STRATA_ASSERT(begin >= 0 && size % value_bytes == 0 &&
                begin + size / value_bytes <= record.numel());
  const std::int64_t first = begin * value_bytes;
  const std::int64_t last = first + size;
  std::int64_t at = 0;  // where the shard begins in the field, which is its shards in order
  for (const ShardRecord& shard : record.shards) {
    const std::int64_t next = at + shard.numel * value_bytes;
    const std::int64_t from = std::max(first, at);
    const std::int64_t until = std::min(last, next);
    if (from < until) {
      impl_->read_shard(record,
                        shard,
                        from - at,
                        to.subspan(static_cast<std::size_t>(from - first),
                                   static_cast<std::size_t>(until - from)));
    }
    at = next;
  }
}

void Reader::Impl::check_header(const FileRecord& file) const {
  const fs::path path = directory / file.name;
  std::vector<std::byte> header(static_cast<std::size_t>(file.header_bytes));
  io::read_exact(io::open_file(path, io::Open::read), path, 0, header);
  if (io::crc32c(header) != file.header_crc) {
    fail(path, "the header does not match its checksum: the file is damaged");
  }
}

void Reader::verify() const {
  for (const FileRecord& file : impl_->manifest.files) {
    impl_->check_header(file);
  }
  std::vector<std::byte> room(static_cast<std::size_t>(kChunkBytes));
  for (const TensorRecord& tensor : impl_->manifest.tensors) {
    for (const ShardRecord& shard : tensor.shards) {
      const std::int64_t size = shard.numel * size_bytes(tensor.dtype);
      for (std::int64_t at = 0; at < size; at += kChunkBytes) {
        const auto part = static_cast<std::size_t>(std::min(kChunkBytes, size - at));
        impl_->read_shard(tensor, shard, at, std::span(room).first(part));
      }
    }
  }
}

std::optional<fs::path> newest(const fs::path& root,
                               const std::function<void(const std::string&)>& warn,
                               Check check) {
  std::vector<std::string> damages;
  for (const Name& name : committed(root)) {
    const fs::path directory = root / to_string(name);
    try {
      const Reader reader(directory);
      if (check == Check::every_byte) {
        reader.verify();
      }
    } catch (const Error& error) {
      damages.emplace_back(error.what());
      continue;
    }
    for (const std::string& damage : damages) {
      if (warn) {
        warn(fmt::format("passing over a damaged checkpoint: {}", damage));
      }
    }
    return directory;
  }
  if (!damages.empty()) {
    throw Error(
        Errc::format,
        fmt::format("checkpoint: all {} in '{}' are damaged and none was touched; put a copy "
                    "of one back, or start afresh in another run.dir ({})",
                    damages.size(),
                    root.string(),
                    fmt::join(damages, "; ")));
  }
  return std::nullopt;
}

}  // namespace strata::checkpoint
