#include "optim/eigenbasis_update.h"

#include <algorithm>
#include <numeric>

#include "core/compress/orthonormal.h"
#include "core/compress/scratch_size.h"
#include "core/compress/symmetric_eigen.h"
#include "core/compress/wide.h"
#include "core/cpu/scratch.h"
#include "core/math.h"
#include "core/matmul.h"

namespace strata::optim {
namespace {

Tensor matrix_view(const float* data, std::int64_t rows, std::int64_t columns) {
  return {const_cast<std::byte*>(reinterpret_cast<const std::byte*>(data)),
          DType::f32,
          {rows, columns}};
}

bool turned(std::int64_t side) {
  return side <= EigenbasisUpdate::kLongest;
}

/// Every product of an update of an (a, b) matrix.
struct Products {
  MatmulShape left, left_back, right, right_back, left_gram, right_gram, left_step, right_step;
  Products(std::int64_t a, std::int64_t b)
      : left{.m = a, .n = b, .k = a, .form = MatmulForm::ab},
        left_back{.m = a, .n = b, .k = a, .form = MatmulForm::atb},
        right{.m = a, .n = b, .k = b, .form = MatmulForm::abt},
        right_back{.m = a, .n = b, .k = b, .form = MatmulForm::ab},
        left_gram{.m = a, .n = a, .k = b, .form = MatmulForm::abt},
        right_gram{.m = b, .n = b, .k = a, .form = MatmulForm::atb},
        left_step{.m = a, .n = a, .k = a, .form = MatmulForm::ab},
        right_step{.m = b, .n = b, .k = b, .form = MatmulForm::ab} {}
  std::int64_t scratch_bytes(std::int64_t a, std::int64_t b) const {
    std::int64_t most = 0;
    const auto add = [&](const MatmulShape& shape) {
      most = std::max(most, matmul_scratch_bytes(shape));
    };
    if (turned(a)) {
      add(left), add(left_back), add(left_gram), add(left_step);
    }
    if (turned(b)) {
      add(right), add(right_back), add(right_gram), add(right_step);
    }
    return most;
  }
};

}  // namespace

/// One side of the matrix: what it keeps, if it is turned.
struct EigenbasisUpdate::Side {
  std::int64_t n = 0;
  float* covariance = nullptr;
  float* basis = nullptr;  // vectors as rows
  explicit operator bool() const { return basis != nullptr; }
  Side(std::int64_t size, StateViews& state, const std::string& name) : n(size) {
    if (turned(size)) {
      covariance = state[name + ".covariance"].data<float>();
      basis = state[name + ".basis"].data<float>();
    }
  }
};

struct EigenbasisUpdate::Room {
  std::int64_t a = 0, b = 0;
  float *image = nullptr, *normal = nullptr, *half = nullptr;  // (a, b) each
  float* square = nullptr;                                     // of the longer turned side
  double *values = nullptr, *matrix = nullptr;
  std::int64_t* order = nullptr;
  std::span<std::byte> rest;

  template <class From>
  static Room lay_out(From& from, std::int64_t a, std::int64_t b) {
    Room room;
    room.a = a, room.b = b;
    const std::int64_t n = std::max(turned(a) ? a : 0, turned(b) ? b : 0);
    room.image = from.template array<float>(a * b);
    room.normal = from.template array<float>(a * b);
    room.half = from.template array<float>(a * b);
    room.square = from.template array<float>(n * n);
    room.values = from.template array<double>(n);
    room.matrix = from.template array<double>(n * n);
    room.order = from.template array<std::int64_t>(n);
    room.rest = from.bytes(std::max({Products(a, b).scratch_bytes(a, b),
                                     symmetric_eigen_workspace_bytes(n),
                                     orthonormalise_workspace_bytes(n, n)}));
    return room;
  }

  /// to = P x Q^T, or back: to = P^T x Q. `to` is not x.
  void turn(float* to, const float* x, const Side& left, const Side& right, Stream& stream) const {
    product(half, left.basis, x, Products(a, b).left, bool(left), stream);
    product(to, half, right.basis, Products(a, b).right, bool(right), stream);
  }
  void turn_back(
      float* to, const float* x, const Side& left, const Side& right, Stream& stream) const {
    product(half, left.basis, x, Products(a, b).left_back, bool(left), stream);
    product(to, half, right.basis, Products(a, b).right_back, bool(right), stream);
  }

 private:
  /// A product with a basis, or a copy where there is none.
  void product(float* to,
               const float* x,
               const float* y,
               const MatmulShape& shape,
               bool there,
               Stream& stream) const {
    if (!there) {
      const float* const from = x == nullptr ? y : x;
      std::copy(from, from + a * b, to);
      return;
    }
    const auto view = [](const float* data, std::int64_t numel) {
      return matrix_view(data, 1, numel);
    };
    matmul(view(to, shape.m * shape.n),
           view(x, shape.m * shape.k),
           view(y, shape.k * shape.n),
           shape,
           Accumulate::overwrite,
           rest,
           stream);
  }
};

void EigenbasisUpdate::add_fields(const ParamInfo& param,
                                  const Rule& rule,
                                  StateCodec codec,
                                  StateLayout& layout) const {
  const MatrixShape shape(param);
  for (const Moment& moment : rule.moments()) {
    add_moment_fields(layout, codec, moment, shape.numel());
  }
  const auto add = [&](const std::string& name, std::int64_t n) {
    if (turned(n)) {
      layout.push_back({name + ".covariance", DType::f32, Granularity::whole(), n * n});
      layout.push_back({name + ".basis", DType::f32, Granularity::whole(), n * n});
    }
  };
  add("left", shape.rows);
  add("right", shape.columns);
  layout.push_back({"started", DType::f32, Granularity::whole(), 1});
}

std::int64_t EigenbasisUpdate::workspace_bytes(const ParamInfo& param) const {
  const MatrixShape shape(param);
  cpu::ScratchSize size;
  Room::lay_out(size, shape.rows, shape.columns);
  return size.total_bytes();
}

/// covariance <- covariance + mix (scale^2 G G^T - covariance), both sides.
void EigenbasisUpdate::enter_gradient(const MatrixStep& step, const Room& room, double mix) const {
  const Products products(room.a, room.b);
  const Tensor grad = matrix_view(step.grad, room.a, room.b);
  const float squared = step.scale * step.scale, by = static_cast<float>(mix);
  const auto enter = [&](const Side& side, const MatmulShape& shape) {
    if (!side) {
      return;
    }
    matmul(matrix_view(room.square, side.n, side.n),
           grad,
           grad,
           shape,
           Accumulate::overwrite,
           room.rest,
           step.stream);
    for_each(step.stream,
             side.n * side.n,
             [at = side.covariance, gram = room.square, squared, by](std::int64_t i) {
               at[i] = fma_(by, squared * gram[i] - at[i], at[i]);
             });
  };
  enter(Side(room.a, step.state, "left"), products.left_gram);
  enter(Side(room.b, step.state, "right"), products.right_gram);
}

void EigenbasisUpdate::start(const MatrixStep& step, const Room& room) const {
  enter_gradient(step, room, 1.0 - config_.covariance_beta);
  const auto solve = [&](const Side& side) {
    if (!side) {
      return;
    }
    const std::int64_t n = side.n;
    std::copy(side.covariance, side.covariance + n * n, room.matrix);
    const Tensor matrix(reinterpret_cast<std::byte*>(room.matrix), DType::f64, {n, n});
    const Tensor values(reinterpret_cast<std::byte*>(room.values), DType::f64, {n});
    symmetric_eigen(values, matrix, matrix, room.rest, step.stream);
    std::transform(room.matrix, room.matrix + n * n, side.basis, [](double value) {
      return static_cast<float>(value);
    });
  };
  solve(Side(room.a, step.state, "left"));
  solve(Side(room.b, step.state, "right"));
}

void EigenbasisUpdate::turn_bases(const MatrixStep& step, const Room& room) const {
  const Side left(room.a, step.state, "left"), right(room.b, step.state, "right");
  const Products products(room.a, room.b);
  for (const Moment& moment : step.rule.moments()) {
    float* const m = step.state[moment.name].data<float>();
    if (!moment.positive) {
      room.turn_back(room.image, m, left, right, step.stream);
      std::copy(room.image, room.image + room.a * room.b, m);
    }
  }
  const auto turn = [&](const Side& side, const MatmulShape& shape, bool rows) {
    if (!side) {
      return;
    }
    const std::int64_t n = side.n;
    // Row j of basis * covariance: where power iteration takes vector j; its part along the vector
    // is what the covariance holds in that direction.
    matmul(matrix_view(room.square, n, n),
           matrix_view(side.basis, n, n),
           matrix_view(side.covariance, n, n),
           shape,
           Accumulate::overwrite,
           room.rest,
           step.stream);
    cpu::simd([&] {
      for (std::int64_t j = 0; j < n; ++j) {
        room.values[j] = cpu::wide_dot(n, room.square + j * n, side.basis + j * n);
      }
    });
    std::iota(room.order, room.order + n, std::int64_t{0});
    std::stable_sort(room.order, room.order + n, [&](std::int64_t x, std::int64_t y) {
      return room.values[x] > room.values[y];
    });
    for (std::int64_t j = 0; j < n; ++j) {
      const float* const from = room.square + room.order[j] * n;
      std::copy(from, from + n, side.basis + j * n);
    }
    orthonormalise(matrix_view(side.basis, n, n),
                   Passes::orthonormal,
                   {step.info.seed,
                    RandomUse::subspace,
                    static_cast<std::uint64_t>(step.info.step),
                    static_cast<std::uint64_t>(step.weight.param->id)},
                   room.rest,
                   step.stream);
    for (const Moment& moment : step.rule.moments()) {
      if (!moment.positive) {
        continue;
      }
      float* const v = step.state[moment.name].data<float>();
      for (std::int64_t i = 0; i < room.a * room.b; ++i) {
        const std::int64_t row = i / room.b, column = i % room.b;
        room.half[i] =
            rows ? v[room.order[row] * room.b + column] : v[row * room.b + room.order[column]];
      }
      std::copy(room.half, room.half + room.a * room.b, v);
    }
  };
  turn(right, products.right_step, false);
  turn(left, products.left_step, true);
  for (const Moment& moment : step.rule.moments()) {
    float* const m = step.state[moment.name].data<float>();
    if (!moment.positive) {
      room.turn(room.image, m, left, right, step.stream);
      std::copy(room.image, room.image + room.a * room.b, m);
    }
  }
}

void EigenbasisUpdate::update(const MatrixStep& step) const {
  const MatrixShape shape(*step.weight.param);
  cpu::Scratch scratch(step.workspace);
  const Room room = Room::lay_out(scratch, shape.rows, shape.columns);
  const std::int64_t numel = shape.numel();
  float& started = *step.state["started"].data<float>();
  if (started == 0.f) {
    if (std::any_of(step.grad, step.grad + numel, [](float g) { return g != 0.f; })) {
      start(step, room);
      started = static_cast<float>(step.info.step);
    }
    return;
  }
  const std::int64_t t = step.info.step - static_cast<std::int64_t>(started);
  const Side left(room.a, step.state, "left"), right(room.b, step.state, "right");
  room.turn(room.image, step.grad, left, right, step.stream);
  RuleLoop<float> loop = image_loop(step, numel);
  loop.grad = room.image;
  loop.directions = room.normal;
  step.rule.run({.t = t}, {}, loop);
  room.turn_back(room.image, room.normal, left, right, step.stream);
  WeightStep by = step.by;
  by.size *= step.rule.step_factor(t);
  for_each_tile(numel, [&](std::int64_t begin, std::int64_t n) {
    move_weights(step.weight, begin, n, room.image + begin, by, step.info);
  });
  enter_gradient(step, room, 1.0 - config_.covariance_beta);
  if (t % config_.refresh_every == 0) {
    turn_bases(step, room);
  }
}

}  // namespace strata::optim
