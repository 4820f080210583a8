#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "core/executor.h"
#include "core/io/queue.h"
#include "core/state_dict.h"

namespace strata::checkpoint {

struct WriterConfig {
  std::filesystem::path root = {};  // <run>/ckpt
  int keep_last = 2;
  std::int64_t file_bytes = 4ll << 30;  // a data file is closed at this size
  io::QueueConfig queue = {};
  /// Told when an old checkpoint could not be removed; the new one is committed all the same.
  std::function<void(const std::string&)> warn = {};
};

/// Writes checkpoints: every rank stages its shards, all vote, rank 0 writes the manifest last and
/// renames. A directory without a leading dot is complete and verifiable; an aborted attempt
/// changes nothing. Obeys `snapshot`: the program streams packs through it, one block at a time.
/// Constructor, begin and commit are collective.
class Writer final : public Snapshotter {
 public:
  /// `dict`: what this rank owns, in the order in which snapshots come. Rank 0 creates `root` and
  /// removes what dead attempts left there; the run's lock guarantees that no attempt is alive.
  Writer(WriterConfig config, StateDict dict, Communicator& ranks);
  ~Writer() override;
  /// Opens a staging directory. Throws io, naming need and free bytes, when the disk is too small.
  /// The state of rank 0 is the one that is saved.
  void begin(const RunState& state);
  /// Copies every entry of the dict that lies in the instruction's block; the bytes may change as
  /// soon as it returns. A failure is kept for commit(), where all ranks learn of it together.
  void snapshot(const Instruction& instruction, const Held& packs) override;
  /// fsync, vote, manifest, rename, retention. Returns the directory. Throws io; the attempt is
  /// then gone and earlier checkpoints are as they were.
  std::filesystem::path commit();
  /// Ends the attempt, if there is one; nothing of it becomes visible.
  void abort() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A committed checkpoint, its manifest verified.
class Reader {
 public:
  /// Throws format: no manifest, damaged manifest, missing or short data file.
  explicit Reader(const std::filesystem::path& directory);
  ~Reader();
  const RunState& state() const;
  /// Every (tensor, state) stored, whole.
  struct Stored {
    std::string tensor, state;
    DType dtype = DType::f32;
    Shape shape;
    std::int64_t numel = 0;
  };
  const std::vector<Stored>& tensors() const;
  /// Fills `to` with values [begin, begin + ...) of the stored field, assembled from whatever
  /// shards hold them. Verifies the checksum of every chunk it touches; throws format naming tensor
  /// and file.
  void read(const std::string& tensor,
            const std::string& state,
            std::int64_t begin,
            std::span<std::byte> to) const;
  /// Reads everything and compares checksums.
  void verify() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// How much of a checkpoint is looked at before it counts as sound: its manifest and the sizes of
/// its files, or every byte.
enum class Check : std::uint8_t { manifest, every_byte };

/// Newest sound checkpoint under root, by directory scan; damaged ones are passed over and reported
/// through `warn`. Nothing when there is no checkpoint at all. Throws format, naming every one,
/// when all are damaged: a run must not start afresh over them.
std::optional<std::filesystem::path> newest(const std::filesystem::path& root,
                                            const std::function<void(const std::string&)>& warn,
                                            Check check = Check::manifest);

/// First difference of two checkpoints by logical name and bytes: step, data cursor, numeric_hash,
/// tensors. Empty: identical.
std::optional<std::string> first_difference(const Reader& a, const Reader& b);

}  // namespace strata::checkpoint
