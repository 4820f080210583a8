#include "optim/low_rank_update.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/compress/scratch_size.h"
#include "core/cpu/scratch.h"
#include "core/error.h"
#include "core/math.h"
#include "optim/kept_basis.h"
#include "optim/natural_gradient.h"
#include "optim/side_norms.h"

namespace strata::optim {
namespace {

constexpr double kNormFloor = 1e-8;
// Below it a norm was that of no gradient: a limit relative to it would freeze the matrix.
constexpr double kNoNorm = 1e-12;

Tensor matrix_view(const float* data, const Shape& shape) {
  return {const_cast<std::byte*>(reinterpret_cast<const std::byte*>(data)), DType::f32, shape};
}

}  // namespace

/// Where the pieces of an update lie in its workspace.
struct LowRankUpdate::Room {
  float *basis = nullptr, *image = nullptr, *normal = nullptr, *direction = nullptr;
  double *image_norms = nullptr, *normal_norms = nullptr, *grad_norms = nullptr;
  double *gram = nullptr, *shares = nullptr;  // of the kept gradients
  std::span<std::byte> rest;

  template <class From>
  static Room lay_out(From& from, const LowRankUpdate& update, const LowRankShape& shape) {
    Room room;
    const std::int64_t long_side = shape.long_side();
    room.basis = from.template array<float>(shape.basis().numel());
    room.image = from.template array<float>(shape.projected().numel());
    room.normal = from.template array<float>(shape.projected().numel());
    room.image_norms = from.template array<double>(long_side);
    room.normal_norms = from.template array<double>(long_side);
    room.grad_norms = from.template array<double>(long_side);
    if (!update.scales_gradient()) {
      room.direction = from.template array<float>(shape.a * shape.b);
    }
    if (update.natural()) {
      const std::int64_t kept = update.natural_.fisher_window;
      room.gram = from.template array<double>(kept * kept);
      room.shares = from.template array<double>(kept);
    }
    room.rest = from.bytes(std::max({update.basis_workspace_bytes(shape),
                                     project_workspace_bytes(shape),
                                     project_back_workspace_bytes(shape)}));
    return room;
  }
};

LowRankUpdate::LowRankUpdate(SubspaceKind kind,
                             std::string_view method,
                             std::span<const Setting> settings)
    : kind_(kind),
      common_(read_part<SubspaceParts>(method, settings)),
      low_rank_(read_part<RankParts>(method, settings)),
      natural_(read_part<NaturalParts>(method, settings)),
      lazy_(read_part<LazyParts>(method, settings)),
      scaling_(read_part<ScalingParts>(method, settings)),
      rest_(read_part<RestParts>(method, settings)) {
  require(!low_rank_.lazy || keeps_basis(),
          "lazy",
          "a subspace that is kept: svd or random",
          std::string("gaussian"));
}

LowRankShape LowRankUpdate::shape_of(const ParamInfo& param) const {
  const MatrixShape matrix(param);
  const std::int64_t side = matrix.short_side();
  const std::int64_t rank =
      low_rank_.rank > 0 ? low_rank_.rank : std::max<std::int64_t>(1, side / 4);
  if (rank > side) {
    throw Error(Errc::config,
                fmt::format("optim.rank: needs at most {}, the short side of '{}' {}, got {}; the "
                            "nearest is optim.rank={}, and 0 takes a quarter of each matrix's "
                            "short side",
                            side,
                            param.name,
                            to_string(param.shape),
                            rank,
                            side));
  }
  return {matrix.rows, matrix.columns, rank};
}

std::int64_t LowRankUpdate::moment_numel(const ParamInfo& param) const {
  return shape_of(param).projected().numel();
}

void LowRankUpdate::add_fields(const ParamInfo& param,
                               const Rule& rule,
                               StateCodec codec,
                               StateLayout& layout) const {
  const LowRankShape shape = shape_of(param);
  for (const Moment& moment : rule.moments()) {
    add_moment_fields(layout, codec, moment, shape.projected().numel());
  }
  if (keeps_basis()) {
    add_basis_fields(layout, low_rank_.basis_dtype, shape.basis().numel());
  }
  if (low_rank_.lazy) {
    LazyRefresh::add_field(layout, shape.short_side());
  }
  if (natural()) {
    layout.push_back({"history",
                      DType::f32,
                      Granularity::whole(),
                      natural_.fisher_window * shape.projected().numel()});
  }
  if (limits()) {
    layout.push_back({"limiter", DType::f32, Granularity::whole(), 1});
  }
}

std::int64_t LowRankUpdate::basis_workspace_bytes(const LowRankShape& shape) const {
  switch (kind_) {
    case SubspaceKind::svd:
      return low_rank_.basis == BasisMethod::exact ? exact_subspace_workspace_bytes(shape)
                                                   : top_subspace_workspace_bytes(shape);
    case SubspaceKind::random:
      return random_orthonormal_workspace_bytes(shape);
    default:
      return 0;
  }
}

std::int64_t LowRankUpdate::workspace_bytes(const ParamInfo& param) const {
  cpu::ScratchSize size;
  Room::lay_out(size, *this, shape_of(param));
  return size.total_bytes();
}

LowRankUpdate::Period LowRankUpdate::period_of(const MatrixStep& step) const {
  const std::int64_t done = step.info.step - 1;
  if (low_rank_.lazy) {
    const LazyRefresh lazy(step.state, common_.refresh_every);
    return {lazy.due(done) ? 0 : done - lazy.last(), static_cast<std::uint64_t>(done)};
  }
  return {done % common_.refresh_every, static_cast<std::uint64_t>(done / common_.refresh_every)};
}

/// Into the state, and read back from it, so that the step of the refresh sees what later ones see.
void LowRankUpdate::new_basis(const MatrixStep& step,
                              const LowRankShape& shape,
                              const Room& room,
                              const RandomKey& key) const {
  const Tensor basis = matrix_view(room.basis, shape.basis());
  const Tensor grad = matrix_view(step.grad, {shape.a, shape.b});
  if (kind_ == SubspaceKind::random) {
    random_orthonormal(basis, key, room.rest, step.stream);
  } else if (low_rank_.basis == BasisMethod::exact) {
    exact_subspace(basis, grad, shape, room.rest, step.stream);
  } else {
    top_subspace(basis, grad, shape, {}, key, room.rest, step.stream);
  }
  const std::span<const float> values(room.basis, static_cast<std::size_t>(basis.numel()));
  store_basis(step.state, low_rank_.basis_dtype, values);
  if (low_rank_.lazy) {
    LazyRefresh(step.state, common_.refresh_every)
        .refreshed(step.info.step - 1,
                   values.first(static_cast<std::size_t>(shape.short_side())),
                   lazy_.lazy_similarity);
  }
}

void LowRankUpdate::update(const MatrixStep& step) const {
  const LowRankShape shape = shape_of(*step.weight.param);
  cpu::Scratch scratch(step.workspace);
  const Room room = Room::lay_out(scratch, *this, shape);
  const Period period = period_of(step);
  const RandomKey key{step.info.seed,
                      RandomUse::subspace,
                      period.number,
                      static_cast<std::uint64_t>(step.weight.param->id)};
  if (!keeps_basis()) {
    random_projection(matrix_view(room.basis, shape.basis()), key, step.stream);
  } else {
    if (period.since == 0) {
      new_basis(step, shape, room, key);
    }
    load_basis(step.state,
               low_rank_.basis_dtype,
               {room.basis, static_cast<std::size_t>(shape.basis().numel())});
  }
  if (common_.reset && period.since == 0) {
    clear_moments(step.rule.moments(), step.codec, step.state);
  }
  const std::int64_t t = common_.reset ? period.since + 1 : step.info.t();
  const Tensor basis = matrix_view(room.basis, shape.basis());
  const Tensor image = matrix_view(room.image, shape.projected());
  project(image,
          matrix_view(step.grad, {shape.a, shape.b}),
          basis,
          shape,
          room.rest,
          step.stream,
          scales_gradient() ? room.grad_norms : nullptr);
  RuleLoop<float> loop = image_loop(step, image.numel());
  loop.grad = room.image;
  if (natural()) {
    make_natural(step, shape, room, period);
    loop.grad = room.normal;
    loop.scale = 1.f;
  }
  loop.directions = room.normal;
  step.rule.run({.t = t}, {}, loop);
  const double factor = step.rule.step_factor(t);
  scales_gradient() ? move_by_scaled_gradient(step, shape, room, factor)
                    : move_by_image(step, shape, room, factor);
}

/// The projected gradient joins those since the refresh; normal = its natural gradient.
void LowRankUpdate::make_natural(const MatrixStep& step,
                                 const LowRankShape& shape,
                                 const Room& room,
                                 const Period& period) const {
  const std::int64_t numel = shape.projected().numel(), most = natural_.fisher_window;
  const std::int64_t kept = std::min(period.since + 1, most), now = period.since % most;
  float* const history = step.state["history"].data<float>();
  for_each(step.stream,
           numel,
           [to = history + now * numel, from = room.image, by = step.scale](std::int64_t i) {
             to[i] = by * from[i];
           });
  natural_gradient(
      room.normal, history, numel, kept, now, natural_.fisher_damping, room.gram, room.shares);
}

/// What a direction of this norm is multiplied by, so that norms grow by `growth` at most.
double LowRankUpdate::limit(const MatrixStep& step, double norm) const {
  if (!limits()) {
    return 1.0;
  }
  float* const last = step.state["limiter"].data<float>();
  const auto before = static_cast<double>(*last);
  double by = 1.0;
  if (before > kNoNorm) {
    by = scaling_.growth / std::max(norm / (before + kNormFloor), scaling_.growth);
  }
  *last = static_cast<float>(norm * by);
  return by;
}

void LowRankUpdate::move_by_image(const MatrixStep& step,
                                  const LowRankShape& shape,
                                  const Room& room,
                                  double factor) const {
  const Tensor basis = matrix_view(room.basis, shape.basis());
  const Tensor image = matrix_view(room.image, shape.projected());
  const Tensor normal = matrix_view(room.normal, shape.projected());
  const Tensor direction = matrix_view(room.direction, {shape.a, shape.b});
  const std::int64_t numel = shape.a * shape.b;
  const auto back = [&](const Tensor& from, Accumulate mode) {
    project_back(direction, from, basis, shape, mode, room.rest, step.stream);
  };
  float* const d = room.direction;
  const float* const g = step.grad;
  const float scale = step.scale;
  Accumulate mode = Accumulate::overwrite;
  // The rule's factor belongs to what comes out of the subspace; signs and plain gradients take the
  // learning rate as it is.
  double after = factor, inside = low_rank_.scale;
  if (common_.remainder == Remainder::sign || common_.remainder == Remainder::sgd) {
    back(image, Accumulate::overwrite);
    const auto rest = static_cast<float>(rest_.rest_lr);
    const bool signs = common_.remainder == Remainder::sign;
    for_each(step.stream, numel, [=](std::int64_t i) {
      const float z = scale * (g[i] - d[i]);
      d[i] = rest * (signs ? sign(z) : z);
    });
    mode = Accumulate::add;
    inside *= factor;
    after = 1.0;
  } else if (common_.remainder == Remainder::residual) {
    back(image, Accumulate::overwrite);
    const auto part =
        static_cast<float>(scaling_.residual == Residual::compat ? low_rank_.scale : 1.0);
    for_each(step.stream, numel, [=](std::int64_t i) { d[i] = scale * fma_(-part, d[i], g[i]); });
    const SideNorms norms(shape);
    norms.image(room.image, room.image_norms);
    norms.image(room.normal, room.normal_norms);
    norms.matrix(d, room.grad_norms);
    double total = 0.0;
    for (std::int64_t j = 0; j < shape.long_side(); ++j) {
      const double by =
          std::sqrt(room.normal_norms[j]) /
          (std::abs(static_cast<double>(scale)) * std::sqrt(room.image_norms[j]) + kNormFloor);
      total += by * by * room.grad_norms[j];
      room.normal_norms[j] = by;
    }
    const double limited = limit(step, std::sqrt(total));
    norms.scale(d, d, room.normal_norms, limited);
    mode = Accumulate::add;
  }
  const auto by = static_cast<float>(inside);
  if (by != 1.f) {
    for_each(step.stream, normal.numel(), [at = room.normal, by](std::int64_t i) { at[i] *= by; });
  }
  back(normal, mode);
  WeightStep move = step.by;
  move.size *= after;
  for_each_tile(numel, [&](std::int64_t begin, std::int64_t n) {
    move_weights(step.weight, begin, n, d + begin, move, step.info);
  });
}

void LowRankUpdate::move_by_scaled_gradient(const MatrixStep& step,
                                            const LowRankShape& shape,
                                            const Room& room,
                                            double factor) const {
  const SideNorms norms(shape);
  norms.image(room.image, room.image_norms);
  norms.image(room.normal, room.normal_norms);
  const auto size = static_cast<double>(step.scale);
  const auto ratio = [&](double normal, double image) {
    return std::sqrt(normal) / (std::abs(size) * std::sqrt(image) + kNormFloor);
  };
  double* const by = room.normal_norms;
  if (common_.remainder == Remainder::tensor) {
    double normal = 0.0, image = 0.0;
    for (std::int64_t j = 0; j < shape.long_side(); ++j) {
      normal += room.normal_norms[j];
      image += room.image_norms[j];
    }
    std::fill(by, by + shape.long_side(), ratio(normal, image));
  } else {
    for (std::int64_t j = 0; j < shape.long_side(); ++j) {
      by[j] = ratio(room.normal_norms[j], room.image_norms[j]);
    }
  }
  double total = 0.0;
  for (std::int64_t j = 0; j < shape.long_side(); ++j) {
    by[j] *= size;
    total += by[j] * by[j] * room.grad_norms[j];
  }
  const double root = std::sqrt(low_rank_.scale), front = scaling_.scale_front ? root : 1.0;
  WeightStep move = step.by;
  move.size *= factor * limit(step, front * std::sqrt(total)) * root;
  const float* const precise = step.weight.master ? step.weight.master.data<float>() : step.grad;
  norms.for_each_tile(
      step.grad, by, precise, [&](std::int64_t begin, std::int64_t n, const float* d) {
        move_weights(step.weight, begin, n, d, move, step.info);
      });
}

}  // namespace strata::optim
