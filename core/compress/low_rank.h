#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/matmul.h"
#include "core/philox.h"
#include "core/runtime.h"
#include "core/tensor.h"

namespace strata {

/// A matrix G (a, b) seen through `rank` directions of its short side. A basis is always (rank,
/// short_side) f32, one direction per row. a >= b: G is projected from the right, and its rows keep
/// their place; else from the left, and its columns do.
struct LowRankShape {
  std::int64_t a = 0, b = 0, rank = 0;
  bool right() const { return a >= b; }
  std::int64_t long_side() const { return right() ? a : b; }
  std::int64_t short_side() const { return right() ? b : a; }
  Shape basis() const { return {rank, short_side()}; }
  /// Of R: (a, rank) or (rank, b).
  Shape projected() const { return right() ? Shape{a, rank} : Shape{rank, b}; }
  /// Throws config, with the nearest legal rank, unless 1 <= rank <= short_side().
  void validate() const;
};

// Every function here runs on the compute stream, takes its memory from the caller and allocates
// none. Bytes of workspace are what the function of that name says under the present
// thread_count(). Results do not depend on the number of threads; random numbers depend on their
// key alone.

std::int64_t project_workspace_bytes(const LowRankShape& shape);
/// R = G Q^T or Q G. R: shape.projected() f32; G: (a, b) f32. `squares`, where given: (long_side)
/// sums of squares of G along its short side, from the same pass over G.
void project(const Tensor& R,
             const Tensor& G,
             const Tensor& basis,
             const LowRankShape& shape,
             std::span<std::byte> workspace,
             Stream& stream,
             double* squares = nullptr);

std::int64_t project_back_workspace_bytes(const LowRankShape& shape);
/// G = R Q or Q^T R, or G += that.
void project_back(const Tensor& G,
                  const Tensor& R,
                  const Tensor& basis,
                  const LowRankShape& shape,
                  Accumulate mode,
                  std::span<std::byte> workspace,
                  Stream& stream);

struct RandomizedSettings {
  std::int64_t oversample = 8;  // directions followed beyond the rank
  int power_iterations = 2;     // each makes small singular values smaller by their square
};

std::int64_t top_subspace_workspace_bytes(const LowRankShape& shape,
                                          const RandomizedSettings& settings = {});
/// basis = the leading singular directions of G on its short side, strongest first, by a randomised
/// range finder. Orthonormal to 1e-5 for every finite G: directions that G lacks are drawn from
/// `key`. Each row's entry of largest magnitude, the first of equals, is positive, so that a
/// direction keeps its sign when nothing else changes. Throws numerics when G is not finite.
/// Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 53, 2011.
void top_subspace(const Tensor& basis,
                  const Tensor& G,
                  const LowRankShape& shape,
                  const RandomizedSettings& settings,
                  const RandomKey& key,
                  std::span<std::byte> workspace,
                  Stream& stream);

std::int64_t exact_subspace_workspace_bytes(const LowRankShape& shape);
/// The same from all eigenvectors of G^T G or G G^T. Its products are taken in float64: squared
/// singular values down to 1e-15 of the largest stay right, so that what is lost is what f32
/// gradients do not hold anyway.
void exact_subspace(const Tensor& basis,
                    const Tensor& G,
                    const LowRankShape& shape,
                    std::span<std::byte> workspace,
                    Stream& stream);

/// Entries N(0, 1 / rank): element e of the basis is a function of (key, e), so that lengths are
/// kept on average.
void random_projection(const Tensor& basis, const RandomKey& key, Stream& stream);

std::int64_t random_orthonormal_workspace_bytes(const LowRankShape& shape);
/// Orthonormal rows, their span uniform over all subspaces of that rank.
void random_orthonormal(const Tensor& basis,
                        const RandomKey& key,
                        std::span<std::byte> workspace,
                        Stream& stream);

}  // namespace strata
