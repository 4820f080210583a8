#include "data/tok_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>
#include <sys/mman.h>

#include "core/error.h"
#include "core/io/file.h"

namespace strata::data {
namespace {

static_assert(std::endian::native == std::endian::little, ".tok files are little-endian");

// No text starts like this: 0x89 is no UTF-8, and a transfer that rewrites line ends breaks it.
constexpr char kMagic[8] = {'\x89', 'T', 'O', 'K', '\r', '\n', '\x1a', '\n'};
constexpr std::int64_t kHeaderBytes = 4096;
constexpr std::int64_t kBlockBytes = std::int64_t{64} << 20;

/// First bytes of a .tok file; the rest of its 4096 is zero. After the tokens, at the next multiple
/// of 4, stand the CRC-32Cs of their blocks.
struct Header {
  char magic[8];
  std::uint32_t version, width;  // width: bytes per token
  std::uint64_t count, vocab_size, block_bytes;
  char digest[32];
  std::uint32_t table_crc;   // of the block CRCs
  std::uint32_t header_crc;  // of all 4096 bytes with this field zero
};
static_assert(sizeof(Header) == 80);
using HeaderPage = std::array<std::byte, kHeaderBytes>;

struct Extents {
  std::int64_t data_bytes, table_at, blocks, file_bytes;
};

Extents extents(std::int64_t count, std::int64_t width) {
  const std::int64_t data = count * width;
  const std::int64_t table_at = kHeaderBytes + (data + 3) / 4 * 4;
  const std::int64_t blocks = (data + kBlockBytes - 1) / kBlockBytes;
  return {data, table_at, blocks, table_at + 4 * blocks};
}

std::uint32_t header_crc(HeaderPage page) {
  std::memset(page.data() + offsetof(Header, header_crc), 0, sizeof(std::uint32_t));
  return io::crc32c(page);
}

HeaderPage pack(Header header) {
  HeaderPage page{};
  std::memcpy(page.data(), &header, sizeof(header));
  header.header_crc = header_crc(page);
  std::memcpy(page.data(), &header, sizeof(header));
  return page;
}

class Mapping {
 public:
  Mapping(const io::Fd& fd, const std::filesystem::path& path, std::int64_t bytes)
      : bytes_(static_cast<std::size_t>(bytes)),
        data_(::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd.get(), 0)) {
    if (data_ == MAP_FAILED) {
      throw Error(
          Errc::io,
          fmt::format("{}: cannot map {} bytes: {}", path.string(), bytes, std::strerror(errno)));
    }
  }
  ~Mapping() { ::munmap(data_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(data_), bytes_};
  }

 private:
  std::size_t bytes_;
  void* data_;
};

template <class Word>
class MappedTokens final : public TokenStream {
 public:
  MappedTokens(std::unique_ptr<Mapping> mapping, std::int64_t count)
      : mapping_(std::move(mapping)), count_(count) {}
  std::int64_t size() const override { return count_; }
  void read(std::int64_t begin, std::span<std::int32_t> to) const override {
    const auto n = static_cast<std::int64_t>(to.size());
    STRATA_ASSERT(begin >= 0 && begin + n <= count_);
    const auto* words =
        reinterpret_cast<const Word*>(mapping_->bytes().data() + kHeaderBytes) + begin;
    for (std::int64_t i = 0; i < n; ++i) {
      to[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(words[i]);
    }
  }

 private:
  std::unique_ptr<Mapping> mapping_;
  std::int64_t count_;
};

[[noreturn]] void damaged(const std::filesystem::path& file, const std::string& what) {
  throw Error(
      Errc::data,
      fmt::format(
          "{}: damaged .tok file: {}; write it again with `strata tokenize`", file.string(), what));
}

Header read_header(const std::filesystem::path& file, const io::Fd& fd, std::int64_t bytes) {
  HeaderPage page{};
  if (bytes < kHeaderBytes) {
    damaged(file, fmt::format("{} bytes, shorter than its header of {}", bytes, kHeaderBytes));
  }
  io::read_exact(fd, file, 0, page);
  Header header{};
  std::memcpy(&header, page.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    damaged(file, "it does not start as one");
  }
  if (header.header_crc != header_crc(page)) {
    damaged(file, "the header's checksum is wrong");
  }
  if (header.version != 1) {
    throw Error(
        Errc::data,
        fmt::format("{}: .tok version {} is newer than this program, which reads 1; write it "
                    "again with `strata tokenize`",
                    file.string(),
                    header.version));
  }
  return header;
}

void check_blocks(const std::filesystem::path& file,
                  std::span<const std::byte> bytes,
                  const Header& header,
                  const Extents& e) {
  const auto at = [&](std::int64_t offset, std::int64_t n) {
    return bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(n));
  };
  const auto table = at(e.table_at, 4 * e.blocks);
  if (io::crc32c(table) != header.table_crc) {
    damaged(file, "the checksum of its checksums is wrong");
  }
  for (std::int64_t block = 0; block < e.blocks; ++block) {
    std::uint32_t expected = 0;
    std::memcpy(&expected, table.data() + 4 * block, 4);
    const std::int64_t begin = block * kBlockBytes;
    const std::int64_t end = std::min(begin + kBlockBytes, e.data_bytes);
    if (io::crc32c(at(kHeaderBytes + begin, end - begin)) != expected) {
      const auto width = static_cast<std::int64_t>(header.width);
      damaged(
          file,
          fmt::format("the checksum of tokens {} .. {} is wrong", begin / width, end / width - 1));
    }
  }
}

/// Tokens [begin, begin + n) in the width of the file.
template <class Word>
void narrow(const TokenStream& stream,
            std::int64_t begin,
            std::int64_t n,
            std::int64_t vocab_size,
            std::vector<std::byte>& to) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  stream.read(begin, ids);
  to.resize(ids.size() * sizeof(Word));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    STRATA_ASSERT(ids[i] >= 0 && ids[i] < vocab_size);
    const auto word = static_cast<Word>(ids[i]);
    std::memcpy(to.data() + i * sizeof(Word), &word, sizeof(Word));
  }
}

/// The whole file, on disk; completes the header's checksums.
void write_part(const std::filesystem::path& part,
                const TokenStream& stream,
                std::int64_t vocab_size,
                Header header) {
  const io::Fd fd = io::open_file(part, io::Open::create_new);
  const std::int64_t width = header.width;
  const Extents e = extents(stream.size(), width);
  const auto narrow_to = width == 2 ? narrow<std::uint16_t> : narrow<std::uint32_t>;
  std::vector<std::uint32_t> crcs;
  std::vector<std::byte> block;
  for (std::int64_t at = 0; at < e.data_bytes; at += kBlockBytes) {
    const std::int64_t n = std::min(kBlockBytes, e.data_bytes - at) / width;
    narrow_to(stream, at / width, n, vocab_size, block);
    crcs.push_back(io::crc32c(block));
    io::write_all(fd, part, kHeaderBytes + at, block);
  }
  const auto table = std::as_bytes(std::span(crcs));
  io::write_all(fd, part, e.table_at, table);
  header.table_crc = io::crc32c(table);
  io::write_all(fd, part, 0, pack(header));
  io::sync_file(fd, part);
}

}  // namespace

bool is_tok_file(const std::filesystem::path& file) {
  if (file.extension() == ".tok") {
    return true;
  }
  const io::Fd fd = io::open_file(file, io::Open::read);
  std::array<std::byte, sizeof(kMagic)> start{};
  if (io::file_size(fd, file) < static_cast<std::int64_t>(start.size())) {
    return false;
  }
  io::read_exact(fd, file, 0, start);
  return std::memcmp(start.data(), kMagic, sizeof(kMagic)) == 0;
}

std::unique_ptr<TokenStream> open_tok(const std::filesystem::path& file,
                                      const Tokenizer& tokenizer) {
  const io::Fd fd = io::open_file(file, io::Open::read);
  const std::int64_t bytes = io::file_size(fd, file);
  const Header header = read_header(file, fd, bytes);
  const std::string_view digest(header.digest, sizeof(header.digest));
  if (digest != tokenizer.digest()) {
    throw Error(
        Errc::data,
        fmt::format("{}: written with another tokenizer (digest {}, vocabulary {}) than this "
                    "run's {} (digest {}, vocabulary {}); tokenize the text again",
                    file.string(),
                    digest,
                    header.vocab_size,
                    tokenizer.kind(),
                    tokenizer.digest(),
                    tokenizer.vocab_size()));
  }
  const auto count = static_cast<std::int64_t>(header.count);
  if ((header.width != 2 && header.width != 4) || header.block_bytes != kBlockBytes || count < 0 ||
      count > bytes) {
    damaged(file, "its header contradicts itself");
  }
  const Extents e = extents(count, header.width);
  if (bytes != e.file_bytes) {
    damaged(file, fmt::format("{} tokens make {} bytes, got {}", count, e.file_bytes, bytes));
  }
  auto mapping = std::make_unique<Mapping>(fd, file, bytes);
  check_blocks(file, mapping->bytes(), header, e);
  if (header.width == 2) {
    return std::make_unique<MappedTokens<std::uint16_t>>(std::move(mapping), count);
  }
  return std::make_unique<MappedTokens<std::uint32_t>>(std::move(mapping), count);
}

void write_tok(const std::filesystem::path& file,
               const TokenStream& stream,
               const Tokenizer& tokenizer) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = 1;
  header.width = tokenizer.vocab_size() < 65536 ? 2 : 4;
  header.count = static_cast<std::uint64_t>(stream.size());
  header.vocab_size = static_cast<std::uint64_t>(tokenizer.vocab_size());
  header.block_bytes = kBlockBytes;
  tokenizer.digest().copy(header.digest, sizeof(header.digest));

  std::filesystem::path part = file;
  part += ".part";
  std::error_code none;
  std::filesystem::remove(part, none);
  try {
    write_part(part, stream, tokenizer.vocab_size(), header);
    if (std::rename(part.c_str(), file.c_str()) != 0) {
      throw Error(Errc::io,
                  fmt::format("{}: cannot take its name: {}", part.string(), std::strerror(errno)));
    }
  } catch (...) {
    std::filesystem::remove(part, none);
    throw;
  }
  io::sync_directory(file.has_parent_path() ? file.parent_path() : ".");
}

}  // namespace strata::data
