#include <algorithm>
#include <cstring>
#include <deque>
#include <numeric>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "checkpoint/agreement.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/data_writer.h"
#include "checkpoint/directory.h"
#include "checkpoint/kill_points.h"
#include "checkpoint/layout.h"
#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/io/errors.h"
#include "core/kill_point.h"

namespace strata::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Room for the manifest: names, places and checksums.
std::int64_t manifest_bytes(const StateDict& dict, const Layout& layout) {
  return (64 << 10) + 512 * static_cast<std::int64_t>(dict.size()) +
         4 * (layout.size_bytes() / kChunkBytes);
}

/// One save under way on this rank.
struct Attempt {
  RunState state;
  Name name;
  fs::path stage;
  std::deque<OpenFile> files;  // by index of the layout; stays in place while writes refer to it
  DataWriter data;             // after the files: their writes end first
  std::vector<ChunkChecksums> checksums;  // by entry
  std::vector<bool> written;              // by entry
  std::optional<Error> failure;           // reported in the vote, so that no peer waits forever

  Attempt(RunState run, Name as, fs::path in, const io::QueueConfig& queue, std::size_t entries)
      : state(std::move(run)),
        name(as),
        stage(std::move(in)),
        data(queue),
        checksums(entries),
        written(entries, false) {}
};

}  // namespace

struct Writer::Impl {
  WriterConfig config;
  StateDict dict;
  Communicator& ranks;
  Layout layout;
  int incarnation = 0;  // rank 0 only
  std::optional<Attempt> attempt;

  bool first() const { return ranks.rank() == 0; }
  void prepare_root();
  fs::path open_stage(std::int64_t need, const RunState& state, Name& name);
  void write_entry(std::size_t index, std::span<const std::byte> pack);
  OpenFile& file(int index);
  void finish_files();
  Manifest own_part();
  Manifest gather_parts(std::span<const std::int64_t> part_bytes, const std::string& own);
  void attach(Manifest& manifest);
  void publish(Manifest manifest);
  void retention();
  void drop_attempt() noexcept;
};

void Writer::Impl::prepare_root() {
  std::error_code error;
  fs::create_directories(config.root, error);
  if (error) {
    throw io::io_error(config.root, "creation of directory", error.value());
  }
  remove_leftovers(config.root);
  for (const Name& name : committed(config.root)) {
    incarnation = std::max(incarnation, name.incarnation);
  }
  ++incarnation;
}

Writer::Writer(WriterConfig config, StateDict dict, Communicator& ranks)
    : impl_(std::make_unique<Impl>(Impl{std::move(config), std::move(dict), ranks, {}, 0, {}})) {
  const WriterConfig& checked = impl_->config;
  if (checked.keep_last < 1 || checked.file_bytes < 1) {
    throw Error(
        Errc::config,
        fmt::format("checkpoint: keep_last and file_bytes must be at least 1, got {} and {}",
                    checked.keep_last,
                    checked.file_bytes));
  }
  io::make_queue(checked.queue);  // its settings are checked now, not in the middle of a save
  impl_->layout = make_layout(impl_->dict, checked.file_bytes, ranks.rank());
  if (impl_->first()) {
    impl_->prepare_root();
  }
}

Writer::~Writer() {
  abort();
}

fs::path Writer::Impl::open_stage(std::int64_t need, const RunState& state, Name& name) {
  const std::int64_t free = io::free_bytes(config.root);
  if (free < need) {
    throw Error(
        Errc::io,
        fmt::format("checkpoint: step {} needs {} bytes in '{}', {} are free: delete files, lower "
                    "checkpoint.keep_last or choose another run.dir",
                    state.step,
                    need,
                    config.root.string(),
                    free));
  }
  // A second save of the same step gets a name of its own.
  while (fs::exists(config.root / to_string(Name{state.step, incarnation}))) {
    ++incarnation;
  }
  name = {state.step, incarnation};
  return make_stage(config.root, name);
}

void Writer::begin(const RunState& state) {
  STRATA_ASSERT(!impl_->attempt && state.step >= 0);
  Impl& impl = *impl_;
  const std::int64_t mine = impl.layout.size_bytes() + manifest_bytes(impl.dict, impl.layout);
  const std::vector<std::int64_t> needs = gather(impl.ranks, mine);
  const std::int64_t need = std::accumulate(needs.begin(), needs.end(), std::int64_t{0});
  Name name;
  fs::path stage;
  const std::string decided = decide_on_first(impl.ranks, [&] {
    stage = impl.open_stage(need, state, name);
    return stage.filename().string();
  });
  impl.attempt.emplace(
      state, name, impl.config.root / decided, impl.config.queue, impl.dict.size());
  kill_point(kKillStaged);
}

OpenFile& Writer::Impl::file(int index) {
  // Entries may come in any order, but a file is made when the first of them comes.
  auto& files = attempt->files;
  files.resize(std::max(files.size(), static_cast<std::size_t>(index) + 1));
  OpenFile& file = files[static_cast<std::size_t>(index)];
  if (!file.fd) {
    const DataFile& planned = layout.files[static_cast<std::size_t>(index)];
    file.path = attempt->stage / planned.record.name;
    file.fd = io::open_file(file.path, io::Open::create_new);
    attempt->data.append(file, 0, std::as_bytes(std::span(planned.header)));
    kill_point(kKillOpened);
  }
  return file;
}

void Writer::Impl::write_entry(std::size_t index, std::span<const std::byte> pack) {
  const StateEntry& entry = dict[index];
  const auto size = static_cast<std::int64_t>(pack.size());
  if (attempt->written[index] || entry.offset > size || entry.size_bytes() > size - entry.offset) {
    throw Error(Errc::internal,
                fmt::format("checkpoint: '{}:{}' comes twice or leaves its pack {} of {} bytes",
                            entry.state,
                            entry.tensor,
                            to_string(entry.pack),
                            size));
  }
  const Layout::Place place = layout.places[index];
  attempt->data.append(file(place.file),
                       place.offset,
                       pack.subspan(static_cast<std::size_t>(entry.offset),
                                    static_cast<std::size_t>(entry.size_bytes())),
                       &attempt->checksums[index]);
  attempt->written[index] = true;
}

void Writer::snapshot(const Instruction& instruction, const Held& packs) {
  STRATA_ASSERT(impl_->attempt.has_value());
  Attempt& attempt = *impl_->attempt;
  if (attempt.failure) {
    return;
  }
  attempt.failure = failure_of([&] {
    for (std::size_t i = 0; i < impl_->dict.size(); ++i) {
      if (impl_->dict[i].pack.block == instruction.block) {
        impl_->write_entry(i, packs[impl_->dict[i].pack]);
      }
    }
    kill_point(kKillWritten);
  });
}

void Writer::Impl::finish_files() {
  const auto missing = std::find(attempt->written.begin(), attempt->written.end(), false);
  if (missing != attempt->written.end()) {
    const StateEntry& entry = dict[static_cast<std::size_t>(missing - attempt->written.begin())];
    throw Error(Errc::internal,
                fmt::format("checkpoint: no snapshot brought '{}:{}' of pack {}",
                            entry.state,
                            entry.tensor,
                            to_string(entry.pack)));
  }
  attempt->data.drain();
  for (OpenFile& file : attempt->files) {
    io::sync_file(file.fd, file.path);
    file.fd.reset();
  }
  io::sync_directory(attempt->stage);
  kill_point(kKillSynced);
}

Manifest Writer::Impl::own_part() {
  Manifest part;
  for (const DataFile& file : layout.files) {
    part.files.push_back(file.record);
  }
  for (std::size_t i = 0; i < dict.size(); ++i) {
    const StateEntry& entry = dict[i];
    ShardRecord shard{entry.begin,
                      entry.end,
                      entry.numel,
                      layout.places[i].file,
                      layout.places[i].offset,
                      attempt->checksums[i].take()};
    part.tensors.push_back(
        {entry.tensor, entry.state, entry.dtype, entry.shape, {std::move(shard)}});
  }
  return part;
}

Manifest Writer::Impl::gather_parts(std::span<const std::int64_t> part_bytes,
                                    const std::string& own) {
  Manifest manifest;
  for (int rank = 0; rank < ranks.size(); ++rank) {
    std::string part = own;
    if (rank != 0) {
      part.resize(static_cast<std::size_t>(part_bytes[static_cast<std::size_t>(rank)]));
      ranks.recv(std::as_writable_bytes(std::span(part)), rank, kPartTag);
    }
    merge(manifest, decode(part, fmt::format("part of rank {}", rank)));
  }
  return manifest;
}

/// Small whole files beside the data: what makes the checkpoint usable alone.
void Writer::Impl::attach(Manifest& manifest) {
  for (const auto& [name, content] : attempt->state.files) {
    const fs::path path = attempt->stage / name;
    const auto bytes = std::as_bytes(std::span(content));
    const io::Fd fd = io::open_file(path, io::Open::create_new);
    io::write_all(fd, path, 0, bytes);
    io::sync_file(fd, path);
    manifest.attached[name] = io::crc32c(bytes);
  }
}

void Writer::Impl::publish(Manifest manifest) {
  manifest.state = attempt->state;
  manifest.incarnation = attempt->name.incarnation;
  if (const std::optional<std::string> text = defect(manifest)) {
    throw Error(Errc::internal, "checkpoint: what the ranks wrote is not a whole: " + *text);
  }
  attach(manifest);
  OpenFile file{attempt->stage / kManifestName, {}};
  file.fd = io::open_file(file.path, io::Open::create_new);
  attempt->files.push_back(std::move(file));
  const OpenFile& kept = attempt->files.back();
  const std::string bytes = encode(manifest);
  attempt->data.append(kept, 0, std::as_bytes(std::span(bytes)));
  attempt->data.drain();
  io::sync_file(kept.fd, kept.path);
  io::sync_directory(attempt->stage);
  kill_point(kKillManifestWritten);
  io::rename_new(attempt->stage, config.root / to_string(attempt->name));
  // From here on the checkpoint may exist; a later attempt never takes this name again.
  kill_point(kKillRenamed);
  io::sync_directory(config.root);
  kill_point(kKillCommitted);
}

void Writer::Impl::retention() {
  const std::optional<Error> failure = failure_of([&] {
    retain(config.root, attempt->name, config.keep_last, [&](const fs::path& directory) {
      return !failure_of([&] { const Reader reader(directory); });
    });
  });
  if (failure && config.warn) {
    config.warn(
        fmt::format("checkpoint: an old checkpoint could not be removed: {}", failure->what()));
  }
}

fs::path Writer::commit() {
  STRATA_ASSERT(impl_->attempt.has_value());
  Impl& impl = *impl_;
  Attempt& attempt = *impl.attempt;
  std::string part;
  if (!attempt.failure) {
    attempt.failure = failure_of([&] {
      impl.finish_files();
      part = encode(impl.own_part());
    });
  }
  try {
    vote(impl.ranks, attempt.failure);
    kill_point(kKillVoted);
    const std::vector<std::int64_t> part_bytes =
        gather(impl.ranks, static_cast<std::int64_t>(part.size()));
    if (!impl.first()) {
      impl.ranks.send(std::as_bytes(std::span(part)), 0, kPartTag);
    }
    const std::string directory = decide_on_first(impl.ranks, [&] {
      impl.publish(impl.gather_parts(part_bytes, part));
      return to_string(attempt.name);
    });
    if (impl.first()) {
      impl.retention();
    }
    impl.attempt.reset();
    return impl.config.root / directory;
  } catch (...) {
    abort();
    throw;
  }
}

void Writer::Impl::drop_attempt() noexcept {
  if (!attempt) {
    return;
  }
  const fs::path stage = attempt->stage;
  attempt.reset();
  if (first()) {
    std::error_code ignored;  // what stays is hidden and removed by the next run
    fs::remove_all(stage, ignored);
  }
}

void Writer::abort() noexcept {
  impl_->drop_attempt();
}

}  // namespace strata::checkpoint
