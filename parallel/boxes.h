#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace strata::parallel {

/// Bytes that change hands when the ranks meet, by rank.
struct Traffic {
  std::int64_t common = 0;                // laid out here, for everybody
  std::vector<std::int64_t> to;           // laid out here, for that rank
  std::vector<std::int64_t> common_from;  // laid out there, for everybody
  std::vector<std::int64_t> from;         // laid out there, for this rank
};

/// Every rank has a box with a compartment for all and one for each of the others. Time is cut into
/// epochs: what is laid out in one can be read in the next, until the one after. So an epoch may
/// read, and lay out again, with one meeting between; and operations follow each other without one.
class Boxes {
 public:
  Boxes(int rank, int size, std::int64_t capacity_bytes)
      : rank_(rank), size_(size), capacity_bytes_(capacity_bytes) {}
  virtual ~Boxes() = default;
  Boxes(const Boxes&) = delete;
  Boxes& operator=(const Boxes&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Of a whole box.
  std::int64_t capacity_bytes() const { return capacity_bytes_; }
  /// Cuts the boxes for what follows, alike on all ranks: common + (size - 1) * personal bytes at
  /// most fill a box, and size * (common + personal) two of them.
  void divide(std::int64_t common_bytes, std::int64_t personal_bytes);

  // Where to lay out bytes of this epoch.
  virtual std::byte* common() = 0;
  virtual std::byte* for_rank(int rank) = 0;
  // Where bytes of the epoch before are read.
  virtual const std::byte* common_of(int rank) = 0;
  virtual const std::byte* from_rank(int rank) = 0;
  /// Ends the epoch. Throws comm when a rank does not come; `operation` says what for.
  virtual void meet(const char* operation, const Traffic& traffic) = 0;

 protected:
  /// Where in a box of `owner` the compartment of another rank begins.
  std::int64_t personal_offset(int owner, int other) const {
    return common_bytes_ + (other < owner ? other : other - 1) * personal_bytes_;
  }
  std::int64_t common_bytes_ = 0, personal_bytes_ = 0;

 private:
  const int rank_, size_;
  const std::int64_t capacity_bytes_;
};

}  // namespace strata::parallel
