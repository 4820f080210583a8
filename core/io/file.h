#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/handle.h"

namespace strata::io {

struct FdTraits {
  using type = int;
  static type null() noexcept { return -1; }
  static void destroy(type fd) noexcept;
};
using Fd = Handle<FdTraits>;

/// create_new: fails if the file exists. read_write: created if absent.
enum class Open : std::uint8_t { read, create_new, read_write };
/// direct: past the page cache where the file system allows it; offsets, sizes and addresses are
/// then multiples of 4096.
enum class Caching : std::uint8_t { page_cache, direct };

/// Errors of every call: Errc::io with path, operation and reason; a full disk says how many bytes
/// are free.
Fd open_file(const std::filesystem::path& path, Open mode, Caching caching = Caching::page_cache);
std::int64_t file_size(const Fd& fd, const std::filesystem::path& path);
std::string read_text(const std::filesystem::path& path);
void read_exact(const Fd& fd,
                const std::filesystem::path& path,
                std::int64_t offset,
                std::span<std::byte> to);
void write_all(const Fd& fd,
               const std::filesystem::path& path,
               std::int64_t offset,
               std::span<const std::byte> from);

/// A failed fsync is final: the pages may be gone. Callers abandon the file name.
void sync_file(const Fd& fd, const std::filesystem::path& path);
void sync_directory(const std::filesystem::path& directory);
/// Fails if `to` exists.
void rename_new(const std::filesystem::path& from, const std::filesystem::path& to);
/// What rename_new does on file systems without RENAME_NOREPLACE.
void rename_new_emulated(const std::filesystem::path& from, const std::filesystem::path& to);
/// Writes next to `path`, fsyncs, renames over it, fsyncs the directory: readers see old or new,
/// never a part.
void replace_file(const std::filesystem::path& path, std::string_view text);
std::int64_t free_bytes(const std::filesystem::path& directory);

/// Advisory exclusive lock on `path` (created if absent), held while it lives; released by the
/// kernel on death.
class FileLock {
 public:
  /// Throws config, naming the path and the holder's pid, if another process holds it.
  explicit FileLock(const std::filesystem::path& path);

 private:
  Fd fd_;
};

/// CRC-32C (Castagnoli) of bytes, continuing from `seed`. crc32c("123456789") = 0xE3069283.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0);

}  // namespace strata::io
