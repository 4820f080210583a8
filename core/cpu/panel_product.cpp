#include "core/cpu/panel_product.h"

#include <algorithm>

#include "core/cpu/panel_avx512.h"
#include "core/cpu/simd.h"
#include "core/cpu/squares.h"
#include "core/error.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

// Of one block of k: 16 panels of 32 columns of B by 384 fill three quarters of a second-level
// cache of 1 MiB.
constexpr std::int64_t kPanelsOfB = 16;
constexpr std::int64_t kLineFloats = 16;

constexpr std::int64_t pieces(std::int64_t n, std::int64_t size) {
  return (n + size - 1) / size;
}
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return pieces(n, to) * to;
}

/// k in equal blocks: a function of k alone, since it decides the bits.
std::int64_t block_depth(std::int64_t k) {
  return round_up(pieces(k, pieces(k, kPanelDepth)), kPanelChunk);
}

/// Rows of the panel that begins `left` rows before the end: 16 are two halves, not 14 and a rest.
std::int64_t panel_rows(std::int64_t left) {
  constexpr std::int64_t kHalf = 8;
  return left > kPanelRows && left <= 2 * kHalf ? kHalf : std::min(kPanelRows, left);
}

struct Rectangle {
  std::int64_t row, rows, column, columns;  // of C
};

/// How C is cut into rectangles, one for each thread where that pays.
struct Grid {
  std::int64_t rows = 1, columns = 1;
};

/// What the largest rectangle costs, in cycles for each k: every panel of A is copied once for each
/// group of panels of B.
double cost(const MatmulShape& s, const Grid& grid) {
  constexpr double kBlock = 28, kCopyOfA = 5, kCopyOfB = 8;
  const auto down = static_cast<double>(pieces(pieces(s.m, kPanelRows), grid.rows));
  const std::int64_t across = pieces(pieces(s.n, kPanelColumns), grid.columns);
  const auto groups = static_cast<double>(pieces(across, kPanelsOfB));
  const auto panels = static_cast<double>(across);
  return down * panels * kBlock + down * groups * kCopyOfA + panels * kCopyOfB;
}

Grid grid_of(const MatmulShape& s) {
  constexpr double kWorth = 1 << 16;  // multiply-adds of a rectangle, less than a loop costs
  const double work = static_cast<double>(s.m) * static_cast<double>(s.n * s.k) / kWorth;
  const auto most = static_cast<std::int64_t>(
      std::min(work, static_cast<double>(pieces(thread_count(), s.batch))));
  Grid best;
  for (std::int64_t rows = 1; rows <= most; ++rows) {
    const Grid grid{rows, most / rows};
    if (cost(s, grid) < cost(s, best)) {
      best = grid;
    }
  }
  return best;
}

/// The part of [0, n), in whole units, that is the i-th of `count`.
struct Range {
  std::int64_t begin, size;
  Range(std::int64_t n, std::int64_t unit, std::int64_t i, std::int64_t count) {
    const std::int64_t units = pieces(n, unit);
    begin = std::min(n, units * i / count * unit);
    size = std::min(n, units * (i + 1) / count * unit) - begin;
  }
};

/// What one thread needs: two panels of A, one in use and one to come, and a block of B.
std::int64_t floats_of_a() {
  return round_up(kPanelFloatsOfA, kLineFloats);
}
std::int64_t floats_of_thread(const MatmulShape& s) {
  return 2 * floats_of_a() +
         std::min(kPanelsOfB, pieces(s.n, kPanelColumns) * pieces(s.k, block_depth(s.k))) *
             panel_floats_of_b(std::min(block_depth(s.k), s.k));
}

/// Whether every rectangle keeps all that it packs of B, as the squares of A's rows need.
bool keeps_b(const MatmulShape& s) {
  return pieces(s.n, kPanelColumns) * pieces(s.k, block_depth(s.k)) <= kPanelsOfB;
}

/// A rectangle of C on one thread: groups of columns, in them blocks of k, in them panels of rows;
/// where all of B stays packed, panels of rows and in them blocks of k, so that A is read in order.
class RectangleProduct {
 public:
  RectangleProduct(const MatmulShape& s,
                   const ProductOperands& operands,
                   Accumulate mode,
                   const Rectangle& where,
                   float* scratch)
      : shape_(s),
        operands_(operands),
        mode_(mode),
        where_(where),
        block_(block_depth(s.k)),
        group_(round_up(pieces(where.columns, pieces(where.columns, kPanelsOfB * kPanelColumns)),
                        kPanelColumns)),
        keeps_b_(pieces(where.columns, kPanelColumns) * pieces(s.k, block_) <= kPanelsOfB),
        squares_{where.column == 0 ? operands.squares.rows_of_a : nullptr,
                 where.row == 0 ? operands.squares.columns_of_b : nullptr},
        panels_of_a_{scratch, scratch + floats_of_a()},
        block_of_b_(scratch + 2 * floats_of_a()) {}

  void run() {
    Place place;
    pack_panel_of_a(panels_of_a_[0], source_of_a(place), 0, pieces(block_, kPanelChunk));
    while (place.column < where_.columns) {
      place = row_of_blocks(place);
      std::swap(panels_of_a_[0], panels_of_a_[1]);
    }
  }

 private:
  /// A panel of A at a group of columns of B.
  struct Place {
    std::int64_t column = 0, k = 0, row = 0;
  };

  Place after(Place p) const {
    if (keeps_b_ && p.k + block_ < shape_.k) {
      p.k += block_;
      return p;
    }
    p.row += panel_rows(where_.rows - p.row);
    if (keeps_b_) {
      p.k = 0;
      p.column += p.row == where_.rows ? group_ : 0;
      return p;
    }
    if (p.row == where_.rows) {
      p.row = 0;
      p.k += block_;
    }
    if (p.k >= shape_.k) {
      p.k = 0;
      p.column += group_;
    }
    return p;
  }
  float* packed_b(const Place& p, std::int64_t column) const {
    const std::int64_t before = keeps_b_ ? p.k / block_ * pieces(group_, kPanelColumns) : 0;
    return block_of_b_ + before * panel_floats_of_b(std::min(block_, shape_.k)) +
           column / kPanelColumns * panel_floats_of_b(depth(p));
  }
  std::int64_t depth(const Place& p) const { return std::min(block_, shape_.k - p.k); }
  std::int64_t columns(const Place& p) const { return std::min(group_, where_.columns - p.column); }

  /// Past the end, of no depth.
  PanelSource source_of_a(const Place& p) const {
    const bool along = shape_.form != MatmulForm::atb;
    const std::int64_t pitch = along ? shape_.k : shape_.m, row = where_.row + p.row;
    return {.first = reinterpret_cast<const float*>(operands_.A) +
                     (along ? row * pitch + p.k : p.k * pitch + row),
            .pitch = pitch,
            .along = along,
            .extent = panel_rows(where_.rows - p.row),
            .depth = p.column < where_.columns ? depth(p) : 0};
  }
  /// `column` within the group.
  PanelSource source_of_b(const Place& p, std::int64_t column) const {
    const bool along = shape_.form == MatmulForm::abt;
    const std::int64_t pitch = along ? shape_.k : shape_.n,
                       first = where_.column + p.column + column;
    return {.first = reinterpret_cast<const float*>(operands_.B) +
                     (along ? first * pitch + p.k : p.k * pitch + first),
            .pitch = pitch,
            .along = along,
            .extent = std::min(kPanelColumns, columns(p) - column),
            .depth = depth(p)};
  }

  /// The panel of B to fetch while (p, column) is multiplied: the one packed next.
  bool next_of_b(const Place& p, std::int64_t column, PanelSource& next) const {
    if (p.row == 0 && column + kPanelColumns < columns(p)) {
      next = source_of_b(p, column + kPanelColumns);
      return true;
    }
    const Place then = after(p);
    if (then.row == 0 && then.column < where_.columns && column + kPanelColumns >= columns(p)) {
      next = source_of_b(then, 0);
      return true;
    }
    return false;
  }

  PanelCall call_at(const Place& p, std::int64_t column) const {
    const std::int64_t at = where_.column + p.column + column;
    const bool last = p.k + block_ >= shape_.k;
    return {
        .a = panels_of_a_[0],
        .b = packed_b(p, column),
        .c = reinterpret_cast<float*>(operands_.C) + (where_.row + p.row) * shape_.n + at,
        .ldc = shape_.n,
        .rows = panel_rows(where_.rows - p.row),
        .columns = std::min(kPanelColumns, columns(p) - column),
        .depth = depth(p),
        .along = shape_.form != MatmulForm::atb,
        .add = p.k > 0 || mode_ == Accumulate::add,
        .bias = shape_.bias && last ? reinterpret_cast<const float*>(operands_.bias) + at : nullptr,
        .share = {}};
  }

  /// All of B is packed where this is asked for: the blocks of k of a panel of rows follow each
  /// other.
  void add_squares_of_rows(const Place& p) {
    if (squares_.rows_of_a == nullptr) {
      return;
    }
    const std::int64_t rows = panel_rows(where_.rows - p.row);
    if (p.k == 0) {
      std::fill(std::begin(lanes_), std::end(lanes_), 0.0);
    }
    add_squares_of_a(lanes_, panels_of_a_[0], rows, depth(p));
    if (p.k + block_ >= shape_.k) {
      for (std::int64_t r = 0; r < rows; ++r) {
        squares_.rows_of_a[where_.row + p.row + r] = fold_squares(lanes_ + r * kSquareLanes);
      }
    }
  }
  void add_squares_of_columns(const Place& p, std::int64_t column) {
    if (squares_.columns_of_b == nullptr) {
      return;
    }
    const std::int64_t count = std::min(kPanelColumns, columns(p) - column);
    double* const sums = squares_.columns_of_b + where_.column + p.column + column;
    if (p.k == 0) {
      std::fill_n(sums, count, 0.0);
    }
    add_squares_of_b(sums, packed_b(p, column), count, depth(p));
  }

  /// One panel of A by a group of panels of B; meanwhile the next one of A is copied, in equal
  /// shares, each fetched a call before.
  Place row_of_blocks(const Place& p) {
    const Place next = after(p);
    const PanelSource a = source_of_a(next), later = source_of_a(after(next));
    const std::int64_t calls = pieces(columns(p), kPanelColumns);
    const std::int64_t share = pieces(panel_chunks(a.depth), calls);
    const std::int64_t later_share = pieces(panel_chunks(later.depth), calls);
    add_squares_of_rows(p);
    for (std::int64_t i = 0; i < calls; ++i) {
      PanelCall call = call_at(p, i * kPanelColumns);
      if (p.row == 0) {
        pack_panel_of_b(packed_b(p, i * kPanelColumns), source_of_b(p, i * kPanelColumns));
        add_squares_of_columns(p, i * kPanelColumns);
      }
      PanelSource next_b;
      if (next_of_b(p, i * kPanelColumns, next_b)) {
        call.next_b = &next_b;
        pack_panel_of_a(panels_of_a_[1], a, i * share, (i + 1) * share);
      } else if (i + 1 < calls) {
        call.share = panel_share(
            panels_of_a_[1], a, i * share, (i + 1) * share, a, (i + 1) * share, (i + 2) * share);
      } else {
        call.share =
            panel_share(panels_of_a_[1], a, i * share, (i + 1) * share, later, 0, later_share);
      }
      multiply_panels(call);
    }
    if (a.depth % kPanelChunk != 0) {  // shares are of whole chunks
      pack_panel_of_a(panels_of_a_[1], a, a.depth / kPanelChunk, panel_chunks(a.depth));
    }
    return next;
  }

  const MatmulShape& shape_;
  const ProductOperands& operands_;
  Accumulate mode_;
  Rectangle where_;
  std::int64_t block_, group_;
  bool keeps_b_;
  ProductSquares squares_;                        // that this rectangle takes
  double lanes_[kPanelRows * kSquareLanes] = {};  // of the panel of rows in hand
  float* panels_of_a_[2];
  float* block_of_b_;
};

}  // namespace

bool has_panel_product(const MatmulShape& shape) {
  return shape.in == DType::f32 && isa_level() == IsaLevel::avx512;
}

std::int64_t panel_product_scratch_bytes(const MatmulShape& shape) {
  const Grid grid = grid_of(shape);
  const std::int64_t threads =
      std::min<std::int64_t>(thread_count(), shape.batch * grid.rows * grid.columns);
  return threads * floats_of_thread(shape) * std::int64_t{sizeof(float)} + kLineFloats * 4;
}

void panel_product(const ProductOperands& operands,
                   const MatmulShape& shape,
                   Accumulate mode,
                   std::span<std::byte> scratch) {
  STRATA_ASSERT(static_cast<std::int64_t>(scratch.size()) >= panel_product_scratch_bytes(shape));
  ProductSquares squares = operands.squares;
  if (!keeps_b(shape)) {
    ProductOperands apart = operands;
    apart.squares.columns_of_b = nullptr;
    squares_apart(apart, shape);
    squares.rows_of_a = nullptr;
  }
  const Grid grid = grid_of(shape);
  const std::int64_t parts = grid.rows * grid.columns, tasks = shape.batch * parts;
  const std::int64_t slots = std::min<std::int64_t>(thread_count(), tasks);
  constexpr auto kLine = kLineFloats * sizeof(float);
  const auto address = reinterpret_cast<std::uintptr_t>(scratch.data());
  auto* const memory = reinterpret_cast<float*>(scratch.data() + (kLine - address % kLine) % kLine);
  parallel_for(slots, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < tasks; ++task) {
      const std::int64_t slot = task % slots;
      if (slot < begin || slot >= end) {
        continue;
      }
      const std::int64_t batch = task / parts, part = task % parts;
      const Range rows(shape.m, kPanelRows, part / grid.columns, grid.rows);
      const Range columns(shape.n, kPanelColumns, part % grid.columns, grid.columns);
      if (rows.size <= 0 || columns.size <= 0) {
        continue;
      }
      constexpr std::int64_t kFloat = sizeof(float);
      const ProductOperands own{.C = operands.C + batch * shape.m * shape.n * kFloat,
                                .A = operands.A + batch * shape.m * shape.k * kFloat,
                                .B = operands.B + batch * shape.k * shape.n * kFloat,
                                .bias = operands.bias,
                                .squares = squares};
      RectangleProduct(shape,
                       own,
                       mode,
                       {rows.begin, rows.size, columns.begin, columns.size},
                       memory + slot * floats_of_thread(shape))
          .run();
    }
  });
}

}  // namespace strata::cpu
