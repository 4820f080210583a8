#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/communicator.h"
#include "parallel/boxes.h"

namespace strata::parallel {

/// Sums and gathers over boxes, in rounds that fit into them. In a round every owner has a piece of
/// its shares; each rank lays out its values of the pieces of others, the owner folds, all copy the
/// result. Rounds overlap: an epoch lays out one, folds the one before and copies the one before
/// that, so that a value is read from memory once and written once, and ranks meet once a round.
/// Allocates only until it has seen the largest world and number of parts.
class BoxCollectives {
 public:
  explicit BoxCollectives(Boxes& boxes);
  // As in core/communicator.h.
  void all_reduce(std::span<const Tensor> parts, const SumOrder& order);
  void reduce_scatter(std::span<const Tensor> parts,
                      const SumOrder& order,
                      std::span<const Share> shares);
  void all_gather(const char* operation, std::span<std::byte> bytes, std::span<const Share> shares);
  void gather_all(const char* operation, std::span<std::byte> out, std::span<const std::byte> mine);
  void broadcast(std::span<std::byte> bytes, int root);
  void barrier();

 private:
  /// A place in the shares of one owner.
  struct Walk {
    std::size_t share = 0;
    std::int64_t done = 0;  // of that share
  };
  enum class After : std::uint8_t { keep, publish };
  void reduce(const char* operation,
              std::span<const Tensor> parts,
              const SumOrder& order,
              std::span<const Share> shares,
              After after);
  /// Sets totals_ and piece_ and starts all walks; returns the number of rounds.
  std::int64_t begin(std::span<const Share> shares, std::int64_t piece_limit, std::int64_t unit);
  /// Length of an owner's piece in a round, which may be one that does not exist.
  std::int64_t piece_length(int owner, std::int64_t round) const;
  template <class Visit>
  void next_piece(Walk& walk, std::span<const Share> shares, int owner, const Visit& visit);
  void lay_out(std::span<const Tensor> parts, const SumOrder& order, std::span<const Share> shares);
  void fold_piece(std::span<const Tensor> parts,
                  const SumOrder& order,
                  std::span<const Share> shares,
                  After after);
  void copy_pieces(std::byte* to, std::int64_t unit_bytes, std::span<const Share> shares);

  Boxes& boxes_;
  std::int64_t piece_ = 0;
  std::vector<std::int64_t> totals_;     // by owner
  std::vector<Walk> laid_out_, copied_;  // by owner
  Walk mine_;                            // of what this rank owns
  std::vector<const float*> contributions_;
  std::vector<Share> shares_;
  std::vector<std::byte> answers_;  // of a barrier
  Traffic traffic_;
};

}  // namespace strata::parallel
