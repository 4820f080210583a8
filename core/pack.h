#pragma once
#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "core/param.h"

namespace strata {

/// What the bytes of a pack are. `*_next` hold the generation that a speculative update writes.
enum class PackClass : std::uint8_t {
  weights,         // working weights of a block
  grads,           // f32 accumulators of a block's own parameters
  borrowed_grads,  // f32 accumulators that a block keeps for parameters it borrows (tied head)
  state,           // master weights and optimizer fields of the ranges this rank owns
  weights_next,
  state_next,
  boundary,       // input of a block for one micro-batch
  boundary_grad,  // gradient of that input
  saved,          // activation slots of a block for one micro-batch
  workspace,      // scratch of the instruction that runs; the last block has one of its own
  turn_state,     // state of a block that begins and ends with its turn to train
  turn_state_next,
};
std::string_view to_string(PackClass cls);

/// Names a pack in programs, plans and ledgers. `micro_batch` is global and set for boundary,
/// boundary_grad and saved; grads and borrowed_grads of a second and later partial sum of a rank
/// have its first micro-batch there. `block` is -1 for the workspace that blocks share; each tier
/// in which instructions run has one.
struct PackKey {
  PackClass cls = PackClass::weights;
  int block = -1;
  int micro_batch = -1;
  friend auto operator<=>(const PackKey&, const PackKey&) = default;
};
std::string to_string(const PackKey& key);

using PackSizes = std::map<PackKey, std::int64_t>;

/// The bytes of a pack in one tier. Several replicas of a pack may exist; those that hold what was
/// written last are as good as one another.
struct Replica {
  PackKey key;
  Tier tier = {};
  friend auto operator<=>(const Replica&, const Replica&) = default;
};
/// "weights of block 3 in host"; in the device: to_string of the key.
std::string to_string(const Replica& replica);

enum class Access : std::uint8_t { read, write };

/// Offsets of tensors inside a pack: 64-byte aligned, in declaration order; the pack is a multiple
/// of 4096.
struct PackLayout {
  std::vector<std::int64_t> offset;
  std::int64_t size_bytes = 0;
};
PackLayout pack_layout(std::span<const std::int64_t> tensor_bytes);

class PackStore;

/// While it lives the pack is resident and does not move. Its end permits eviction. Neither blocks.
class [[nodiscard]] Lease {
 public:
  Lease() = default;
  Lease(PackStore& store, const Replica& replica, Access access, std::span<std::byte> bytes)
      : store_(&store), replica_(replica), access_(access), bytes_(bytes) {}
  Lease(Lease&& other) noexcept
      : store_(std::exchange(other.store_, nullptr)),
        replica_(other.replica_),
        access_(other.access_),
        bytes_(other.bytes_) {}
  Lease& operator=(Lease&& other) noexcept;
  ~Lease() { release(); }
  const PackKey& key() const { return replica_.key; }
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  void release() noexcept;
  PackStore* store_ = nullptr;
  Replica replica_;
  Access access_ = Access::read;
  std::span<std::byte> bytes_;
};

struct Instruction;

/// Where packs live. The program says when a replica begins, moves and ends; a store obeys and
/// never decides. One thread calls it.
class PackStore {
 public:
  virtual ~PackStore() = default;
  /// Bytes of a new replica, contents undefined. Throws internal if it exists or has no planned
  /// place.
  void create(PackKey key, Tier tier = {}) { create_replica({key, tier}); }
  /// The bytes are dead.
  void destroy(PackKey key, Tier tier = {}) { destroy_replica({key, tier}); }
  /// The replica must be there: a transfer that brings it was waited for. Throws internal if not.
  Lease acquire(PackKey key, Tier tier = {}, Access access = Access::write) {
    return lease({key, tier}, access);
  }
  /// Starts the transfer of a fetch, evict, save or restore; does not wait.
  virtual void start(const Instruction& move) = 0;
  /// Waits until that transfer is complete; throws its error. Once for each start.
  virtual void finish(const Instruction& move) = 0;
  /// The next generation of a block's weights and state, in `tier`, becomes the current one.
  virtual void commit(int block, Tier tier) = 0;
  /// The next generation is thrown away.
  virtual void discard(int block, Tier tier) = 0;

 private:
  friend class Lease;
  virtual void create_replica(const Replica& replica) = 0;
  virtual void destroy_replica(const Replica& replica) = 0;
  virtual Lease lease(const Replica& replica, Access access) = 0;
  virtual void release(const Replica& replica, Access access) noexcept = 0;
};

}  // namespace strata
