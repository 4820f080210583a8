#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/compress/activation_codec.h"
#include "core/executor.h"
#include "core/io/queue.h"
#include "core/schedule.h"
#include "core/tensor.h"
#include "launch/config_sources.h"
#include "launch/recompute_setting.h"
#include "optim/lr_schedule.h"

namespace strata::launch {

/// The settings of a run, typed. Absent (nullopt): what the model, the machine or the planner says.
struct ModelSettings {
  std::string preset;     // empty when init_from is given
  std::string init_from;  // directory or file with weights
  std::optional<double> dropout;
  std::optional<bool> bias, stable_embedding;
  std::optional<std::int64_t> L, C, H, K, F, max_T, factor_rank;
};
struct DataSettings {
  std::vector<std::string> train;
  std::vector<std::string> valid;  // files; empty: valid_fraction of the training text
  double valid_fraction = 0;
  std::string tokenizer;  // "byte", "chars" or a directory
};
enum class OnNonfinite : std::uint8_t { skip, stop };
struct TrainSettings {
  std::int64_t steps = 0;
  std::int64_t seq_len = 0;  // T; 0 until Settings::complete
  std::int64_t batch_tokens = 0;
  std::int64_t micro_batch = 0;  // sequences; 0 until Settings::complete
  std::uint64_t seed = 0;
  DType dtype = DType::f32;
  std::optional<WeightFormat> weights;  // absent: what the dtype needs
  std::optional<Order> order;           // absent: what the summation makes cheaper
  optim::LrScheduleConfig schedule;
  OnNonfinite on_nonfinite = OnNonfinite::skip;
  std::int64_t balance_every = 0;  // steps; 0: never
  std::int64_t eval_every = 0;     // steps; 0: never
  std::int64_t eval_tokens = 0;    // 0: all
};
struct OptimSettings {
  std::string method;
  double clip = 0;  // of a norm; 0: none
  ClipScope clip_scope = ClipScope::global;
  /// Of the method, without "optim."; the optimizer judges them.
  std::vector<std::pair<std::string, std::string>> settings;
};
struct MemorySettings {
  /// How much device memory a step may use: bytes, or what a word asks for.
  enum class Device : std::uint8_t { bytes, automatic, minimum } device = Device::automatic;
  std::int64_t device_bytes = 0;
  /// And memory where nothing computes; automatic: what the machine has.
  Device host = Device::bytes;
  std::int64_t host_bytes = 0;
  struct Amount {
    Device how = Device::bytes;
    std::int64_t bytes = 0;
  };
  Amount pinned = {}, far = {};                  // memory that is locked, and that of another node
  std::optional<int> far_node = {};              // absent: another than this process's own
  std::optional<std::int64_t> nvme_writes = {};  // of a step at most; absent: any number of bytes
  std::vector<std::string> nvme = {};            // "DIRECTORY:BYTES"
  std::string placement = {};                    // offload::tiers_from; empty: automatic
  RecomputeSetting recompute;
  ActivationCodec activation_codec = ActivationCodec::exact;
};
struct IoSettings {
  io::QueueConfig::Engine engine = io::QueueConfig::Engine::automatic;
  std::string verify;                    // of offloaded bytes: "sample", "all" or "off"
  double pace_read = 0, pace_write = 0;  // bytes per second of each path at most; 0: no limit
};
struct CheckpointSettings {
  std::int64_t every = 0;  // steps; 0: at the end only
  std::int64_t keep_last = 0;
};
/// Steps first to last, counted from 1 over all starts of a run; none where last is before first.
struct StepRange {
  std::int64_t first = 1, last = 0;
  bool contains(std::int64_t step) const { return first <= step && step <= last; }
};
enum class Resume : std::uint8_t { automatic, never, path };
struct RunConfig {
  ModelSettings model;
  DataSettings data;
  TrainSettings train;
  OptimSettings optim;
  UpdateMode update = UpdateMode::after_norm;
  std::optional<std::int64_t> speculated;  // blocks, UpdateMode::hybrid; absent: what has room
  bool allow_lossy = false;
  MemorySettings memory;
  CheckpointSettings checkpoint;
  std::string run_dir;
  StepRange trace_steps;
  Resume resume = Resume::automatic;
  std::string resume_path;
  IoSettings io;
  Summation summation = Summation::run;
  std::int64_t checksum_every = 0;  // steps; 0: never
  bool sharded_update = true;       // ZeRO-1, where there are several ranks
  double timeout_seconds = 0;       // of a rank's waits for others
  std::int64_t threads = 0;         // 0: all
};

/// One setting as `config show` prints it and a checkpoint keeps it.
struct Resolved {
  std::string text;    // canonical: equal values have equal texts; accepted back on any path
  std::string origin;  // "default", "run.toml:3", "STRATA_TRAIN__STEPS", "command line", ...
};

/// Every setting of a run, with where it came from.
class Settings {
 public:
  /// Later sources win: default < restored < file < environment < command line. Throws config, in
  /// one line with the key and its place, for unknown keys (with the nearest known one), duplicates
  /// within a source, wrong types and values out of range.
  explicit Settings(const Sources& sources);

  /// Replaces what depends on the model and the method by what it comes to: train.seq_len (at most
  /// 256 and `max_T`), train.micro_batch, and settings of the method left at their defaults. Throws
  /// config when the sizes of a step do not divide or a step to trace is beyond the last.
  void complete(std::int64_t max_T,
                std::span<const std::pair<std::string, std::string>> method_defaults);

  const RunConfig& config() const { return config_; }
  const std::map<std::string, Resolved>& values() const { return values_; }
  /// XXH3 of the settings that may change bits, 16 hex digits. Equal for equal runs only after
  /// complete().
  std::string numeric_hash() const;
  /// All values as a TOML file, one dotted key a line; resume and run.dir left out, so that a copy
  /// of the file does not go on with the run it was written for.
  std::string toml() const;

 private:
  void apply(std::span<const Entry> entries);
  void set(const std::string& key, std::string text, std::string origin);
  void choose_model();
  void require_consent() const;
  void refill();

  std::map<std::string, Resolved> values_;
  RunConfig config_;
};

/// Whether train.micro_batch was derived by Settings::complete.
bool is_derived_micro_batch(const Resolved& micro_batch);

/// Sequences in a micro-batch where train.micro_batch is 0: the most that divide the step's and
/// hold at most 1024 tokens. Depends on nothing else, so that neither memory nor device nor world
/// size changes a bit.
std::int64_t default_micro_batch(std::int64_t seq_len, std::int64_t batch_tokens);

/// Help for the settings under any of these prefixes ("train", "model.preset").
std::string settings_help(std::span<const std::string_view> prefixes);
/// JSON Schema of the configuration file.
std::string settings_schema();

}  // namespace strata::launch
