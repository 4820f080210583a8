#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

namespace strata::offload {

/// `total` things dealt out in proportion to `weights` (the largest remainders get one more; of
/// equal ones the first), after what each is short of (negative: has too much) from before.
std::vector<std::int64_t> largest_remainder(std::int64_t total,
                                            std::span<const double> weights,
                                            std::span<const double> short_of = {});

/// Where the units of extents lie in the files of the paths. Not thread-safe.
class NvmeLayout {
 public:
  struct Path {
    std::int64_t budget_bytes = 0;
    std::int64_t alignment = 4096;
  };
  struct Unit {
    int path = 0;
    std::int64_t offset = 0;  // in its file
  };
  /// The units of a slot of `size_bytes`; the last may be shorter.
  struct Slot {
    std::int64_t size_bytes = 0;
    std::vector<Unit> units;
    std::int64_t shares_version = 0;
  };
  /// Makes the file of a path at least so long; whether it did.
  using Grow = std::function<bool(int path, std::int64_t size_bytes)>;

  NvmeLayout(std::vector<Path> paths, std::int64_t stripe_bytes, std::vector<double> rates);
  /// Throws infeasible naming the missing bytes.
  std::vector<Slot> place(std::span<const std::int64_t> sizes);
  /// Bytes of the path's file in use or once used.
  std::int64_t end(int path) const { return paths_[index(path)].end; }
  /// From now on files grow by it.
  void set_grow(Grow grow) { grow_ = std::move(grow); }
  /// For the writes to come.
  void set_rates(std::vector<double> rates);
  /// For a slot about to be written: leaves a path that is closed, where there is room, and follows
  /// the rates, where there are free units. Its bytes are lost.
  void renew(Slot& slot);
  /// Nothing is placed there any more.
  void close(int path);
  bool closed(int path) const { return paths_[index(path)].closed; }
  /// Room for units of this length on all open paths.
  std::int64_t free_bytes() const;
  double share(int path) const;
  std::int64_t unit_bytes(const Slot& slot, std::size_t unit) const;
  std::int64_t stripe_bytes() const { return stripe_bytes_; }

 private:
  struct Room {
    Path path;
    std::int64_t end = 0, units = 0, used_bytes = 0;
    bool closed = false;
    std::map<std::int64_t, std::vector<std::int64_t>> free = {};  // offsets by length
  };
  static std::size_t index(int path) { return static_cast<std::size_t>(path); }
  std::int64_t length_on(std::size_t path, std::int64_t size_bytes) const;
  std::vector<double> open_rates() const;
  std::vector<std::int64_t> targets(std::int64_t units) const;
  void note_laid_out(Slot& slot);
  std::vector<std::int64_t> counts(const Slot& slot) const;
  bool take(std::size_t path, std::int64_t size_bytes, Unit& unit);
  void give_back(const Unit& unit, std::int64_t size_bytes);
  bool place_unit(Slot& slot, std::size_t unit, std::vector<double>& want);
  bool move(Slot& slot, std::size_t unit, std::span<const std::int64_t> want);
  std::vector<Room> paths_;
  std::int64_t stripe_bytes_;
  std::vector<double> rates_;
  std::vector<double> short_of_;  // units, by path, of all that was laid out for these rates
  std::int64_t version_ = 1;
  Grow grow_;
};

}  // namespace strata::offload
