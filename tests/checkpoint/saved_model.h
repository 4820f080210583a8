#pragma once
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "core/param.h"

namespace strata::tests {

/// Packs in plain vectors.
class VectorStore final : public PackStore {
 public:
  std::map<PackKey, std::vector<std::byte>> packs;
  void start(const Instruction&) override {}
  void finish(const Instruction&) override {}
  void commit(int, Tier) override {}
  void discard(int, Tier) override {}

 private:
  void create_replica(const Replica& replica) override { packs[replica.key]; }
  void destroy_replica(const Replica& replica) override { packs.erase(replica.key); }
  Lease lease(const Replica& replica, Access access) override {
    return {*this, replica, access, packs.at(replica.key)};
  }
  void release(const Replica&, Access) noexcept override {}
};

/// One field of one tensor of the small model that the tests save.
struct Field {
  std::string tensor;
  int block = 0;
  Shape shape;
  StateField field;
};

/// Three blocks; chunks of checksums begin, end and fit inside; a scalar, an empty tensor, a field
/// that is not element-wise.
inline const std::vector<Field>& fields() {
  static const std::vector<Field> all = [] {
    std::vector<Field> made;
    const auto add = [&](const char* tensor, int block, Shape shape, StateField field) {
      made.push_back({tensor, block, shape, std::move(field)});
    };
    add("wte.weight", 0, {97, 64}, {"weight", DType::f32, {}, 1});
    add("wte.weight", 0, {97, 64}, {"m", DType::f32, {}, 1});
    add("h.0.w", 1, {300, 401}, {"weight", DType::f32, {}, 1});
    add("h.0.w", 1, {300, 401}, {"working", DType::bf16, {}, 1});
    add("h.0.w", 1, {300, 401}, {"codes", DType::u8, {}, 1});
    add("h.0.w", 1, {300, 401}, {"scale", DType::f32, Granularity::blocks_of(4096), 1});
    add("h.0.b", 1, {401}, {"weight", DType::f32, {}, 1});
    add("ln.scalar", 2, {}, {"weight", DType::f32, {}, 1});
    add("ln.empty", 2, {0, 5}, {"weight", DType::f32, {}, 1});
    return made;
  }();
  return all;
}

/// Value bytes of a field at a step: any range can be made alone.
inline std::byte value_byte(const Field& field, std::int64_t step, std::int64_t byte) {
  std::uint64_t x = static_cast<std::uint64_t>(byte) * 0x9E3779B97F4A7C15ull +
                    static_cast<std::uint64_t>(step) * 0xD1B54A32D192ED03ull +
                    static_cast<std::uint64_t>(&field - fields().data()) * 0x2545F4914F6CDD1Dull;
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9ull;
  return static_cast<std::byte>(x >> 56);
}

/// What one rank owns of the model: every tensor is cut at multiples of 4096 elements.
class RankState {
 public:
  RankState(int rank, int world) {
    for (const Field& f : fields()) {
      const std::int64_t numel = f.shape.numel();
      const std::int64_t begin = cut(numel, rank, world), end = cut(numel, rank + 1, world);
      if (begin == end && !(numel == 0 && rank == 0)) {
        continue;
      }
      const PackKey pack{
          f.field.name == "weight" ? PackClass::weights : PackClass::state, f.block, -1};
      const std::int64_t values = field_numel(f.field, f.shape, begin, end);
      std::int64_t& used = pack_bytes_[pack];
      dict.push_back({f.tensor,
                      f.field.name,
                      f.field.dtype,
                      f.shape,
                      begin,
                      end,
                      values,
                      field_numel(f.field, f.shape, 0, begin),
                      pack,
                      used});
      used = (used + dict.back().size_bytes() + 63) / 64 * 64;
      entries_.push_back({&f, field_numel(f.field, f.shape, 0, begin)});
    }
    for (int block = 0; block < 3; ++block) {
      for (const PackClass cls : {PackClass::weights, PackClass::state}) {
        const PackKey key{cls, block, -1};
        store.packs[key].resize(static_cast<std::size_t>(pack_bytes_[key]));
      }
    }
  }
  void fill(std::int64_t step) {
    for (std::size_t i = 0; i < dict.size(); ++i) {
      const std::int64_t first = entries_[i].first_value * size_bytes(dict[i].dtype);
      for (std::int64_t b = 0; b < dict[i].size_bytes(); ++b) {
        store.packs[dict[i].pack][static_cast<std::size_t>(dict[i].offset + b)] =
            value_byte(*entries_[i].field, step, first + b);
      }
    }
  }
  void snapshot(checkpoint::Writer& writer, int block) {
    const Instruction instruction{.op = Op::snapshot, .block = block};
    const PackKey keys[] = {{PackClass::weights, block, -1}, {PackClass::state, block, -1}};
    Held held;
    for (const PackKey& key : keys) {
      held.add(store.acquire(key));
    }
    writer.snapshot(instruction, held);
    for (const PackKey& key : keys) {  // the next update may come at once
      std::fill(store.packs[key].begin(), store.packs[key].end(), std::byte{0xAA});
    }
  }
  std::filesystem::path save(checkpoint::Writer& writer, const RunState& state) {
    fill(state.step);
    writer.begin(state);
    for (int block = 0; block < 3; ++block) {
      snapshot(writer, block);
    }
    return writer.commit();
  }

  StateDict dict;
  VectorStore store;

 private:
  static std::int64_t cut(std::int64_t numel, int rank, int world) {
    return rank == world ? numel : std::min(numel, numel * rank / world / 4096 * 4096);
  }
  struct Entry {
    const Field* field;
    std::int64_t first_value;
  };
  std::vector<Entry> entries_;
  std::map<PackKey, std::int64_t> pack_bytes_;
};

inline RunState run_state(std::int64_t step) {
  return {.step = step,
          .updates = step - 1,
          .tokens = step * 1024,
          .samples = step * 8,
          .seed = 42,
          .numeric_hash = "hash",
          .numeric_environment = {{"lib", "1"}},
          .files = {{"config.json", "{\"a\": 1}"}, {"tokenizer.json", "words"}},
          .settings = {{"train.steps", "9"}}};
}

/// Expects every value of the model at `step` in a checkpoint, read in pieces of many sizes.
inline void expect_saved(const std::filesystem::path& directory, std::int64_t step) {
  const checkpoint::Reader reader(directory);
  EXPECT_EQ(reader.state().step, step);
  EXPECT_EQ(reader.tensors().size(), fields().size());
  EXPECT_NO_THROW(reader.verify());
  for (const Field& f : fields()) {
    const std::int64_t width = size_bytes(f.field.dtype);
    const std::int64_t numel = field_numel(f.field, f.shape, 0, f.shape.numel());
    std::int64_t wrong = 0;
    for (std::int64_t at = 0, piece = 1; at < numel; at += piece, piece = piece * 3 + 1) {
      piece = std::min(piece, numel - at);
      std::vector<std::byte> bytes(static_cast<std::size_t>(piece * width));
      reader.read(f.tensor, f.field.name, at, bytes);
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        wrong += bytes[i] != value_byte(f, step, at * width + static_cast<std::int64_t>(i)) ? 1 : 0;
      }
    }
    EXPECT_EQ(wrong, 0) << f.field.name << ":" << f.tensor;
  }
}

/// Names in a directory, sorted.
inline std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace strata::tests
