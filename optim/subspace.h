#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "optim/registry.h"

namespace strata::optim {

/// What of a matrix's gradient a rule's moments see.
enum class SubspaceKind : std::uint8_t {
  whole,
  svd,          // leading singular vectors of the gradient on its short side (GaLore)
  random,       // a random orthonormal basis of the short side
  gaussian,     // entries N(0, 1 / rank), drawn again in each step instead of kept (APOLLO)
  columns,      // some columns
  rows,         // some rows
  coordinates,  // some elements of every chunk
  eigenbasis,   // all of it, turned into the eigenvectors of its covariances (SOAP)
  tensors,      // all of some matrices (FRUGAL's block mode)
  blocks,       // all of some blocks of the model (BAdam, LISA)
};
constexpr std::array<std::string_view, 10> choices(SubspaceKind) {
  return {"whole",
          "svd",
          "random",
          "gaussian",
          "columns",
          "rows",
          "coordinates",
          "eigenbasis",
          "tensors",
          "blocks"};
}
inline bool has_rank(SubspaceKind kind) {
  return kind == SubspaceKind::svd || kind == SubspaceKind::random ||
         kind == SubspaceKind::gaussian;
}

/// Whether a subspace is a choice of whole tensors, which take turns.
inline bool takes_turns(SubspaceKind kind) {
  return kind == SubspaceKind::tensors || kind == SubspaceKind::blocks;
}

/// What becomes of the gradient outside of the subspace, or with its help.
enum class Remainder : std::uint8_t {
  discard,   // nothing (GaLore)
  sign,      // its sign (FRUGAL)
  sgd,       // itself
  residual,  // itself, each row or column scaled as the rule scaled its image (Fira)
  channel,   // no direction comes from the subspace: the gradient, each row or column scaled as the
             // rule scaled its image (APOLLO)
  tensor,    // the same with one scale for the matrix (APOLLO-Mini)
};
constexpr std::array<std::string_view, 6> choices(Remainder) {
  return {"discard", "sign", "sgd", "residual", "channel", "tensor"};
}

enum class BasisMethod : std::uint8_t { randomised, exact };
constexpr std::array<std::string_view, 2> choices(BasisMethod) {
  return {"randomised", "exact"};
}
/// int4: asymmetric codes of groups of 256, two a byte.
enum class BasisFormat : std::uint8_t { f32, bf16, int4 };
constexpr std::array<std::string_view, 3> choices(BasisFormat) {
  return {"f32", "bf16", "int4"};
}
/// The part of the gradient that Fira calls its residual: outside of the subspace, or, as its code
/// has it, less `scale` times what is inside.
enum class Residual : std::uint8_t { exact, compat };
constexpr std::array<std::string_view, 2> choices(Residual) {
  return {"exact", "compat"};
}

/// Settings of every subspace.
struct SubspaceParts {
  std::int64_t refresh_every = 200;
  bool reset = false;
  Remainder remainder = Remainder::discard;
  void fields(auto&& f) {
    f("refresh_every", refresh_every, "steps between new subspaces");
    f("reset", reset, "moments start anew with a new subspace");
    f("remainder",
      remainder,
      "the gradient outside of it: discard, sign, sgd, residual, channel, tensor");
  }
  void validate() const {
    require(refresh_every >= 1,
            "refresh_every",
            "a value of at least 1",
            static_cast<double>(refresh_every));
  }
};
/// Of the subspaces that are spanned by few vectors.
struct RankParts {
  std::int64_t rank = 0;
  double scale = 1.0;
  BasisMethod basis = BasisMethod::randomised;
  BasisFormat basis_dtype = BasisFormat::f32;
  bool natural = false, lazy = false;
  void fields(auto&& f) {
    f("rank", rank, "dimensions of the subspace; 0: a quarter of the matrix's short side");
    f("scale", scale, "of directions out of the subspace; channel and tensor take its root");
    f("basis", basis, "singular vectors: randomised or exact");
    f("basis_dtype", basis_dtype, "kept basis: f32, bf16 or int4");
    f("lazy", lazy, "refreshes grow rarer while the first direction stays what it was");
    f("natural", natural, "moments see the natural gradient of the projected ones");
  }
  void validate() const {
    require(rank >= 0, "rank", "a value of at least 0", static_cast<double>(rank));
    require(scale > 0, "scale", "a value above 0", scale);
  }
};
/// Of lazy refreshes (Q-GaLore).
struct LazyParts {
  double lazy_similarity = 0.4;
  void fields(auto&& f) {
    f("lazy_similarity",
      lazy_similarity,
      "mean cosine of the last five first directions from which the gap doubles");
  }
  void validate() const {
    require(
        lazy_similarity >= 0 && lazy_similarity <= 1, "lazy_similarity", "0 to 1", lazy_similarity);
  }
};
/// Of natural gradients.
struct NaturalParts {
  double fisher_damping = 1e-3;
  std::int64_t fisher_window = 20;
  void fields(auto&& f) {
    f("fisher_damping",
      fisher_damping,
      "added to the sum of outer products of projected gradients");
    f("fisher_window", fisher_window, "projected gradients that are kept, since the refresh");
  }
  void validate() const {
    require(fisher_damping > 0, "fisher_damping", "a value above 0", fisher_damping);
    require(fisher_window >= 1 && fisher_window <= 256,
            "fisher_window",
            "1 to 256",
            static_cast<double>(fisher_window));
  }
};
/// Of the subspaces that are a choice of elements.
struct DensityParts {
  double density = 0.25;
  void fields(auto&& f) {
    f("density", density, "share of columns, rows, elements or matrices in it");
  }
  void validate() const {
    require(density > 0 && density <= 1,
            "density",
            density > 1 ? "0 < density <= 1; the nearest is 1" : "0 < density <= 1, such as 0.01",
            density);
  }
};
/// Of the remainders that are scaled by what the rule did.
struct ScalingParts {
  bool limit_growth = true;
  double growth = 1.01;
  bool scale_front = false;
  Residual residual = Residual::exact;
  void fields(auto&& f) {
    f("limit_growth", limit_growth, "a norm may grow only so much from step to step");
    f("growth", growth, "by this factor");
    f("scale_front", scale_front, "scale before the limit instead of after it");
    f("residual", residual, "of remainder=residual: exact, or compat as in Fira's code");
  }
  void validate() const { require(growth >= 1, "growth", "a value of at least 1", growth); }
};
/// Of the remainders that keep the gradient as it is.
struct RestParts {
  double rest_lr = 1.0;
  void fields(auto&& f) {
    f("rest_lr", rest_lr, "learning rate of the remainder, relative to the subspace's");
  }
  void validate() const { require(rest_lr >= 0, "rest_lr", "a value of at least 0", rest_lr); }
};

}  // namespace strata::optim
