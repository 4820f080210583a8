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

PanelWord word_of(DType in) {
  return in == DType::f32 ? PanelWord::f32 : PanelWord::bf16_pair;
}

/// Depth in words.
std::int64_t depth_of(const MatmulShape& s) {
  return s.in == DType::f32 ? s.k : pieces(s.k, 2);
}

/// The depth in equal blocks: a function of k and type alone, since it decides the bits.
std::int64_t block_depth(std::int64_t depth) {
  return round_up(pieces(depth, pieces(depth, kPanelDepth)), kPanelChunk);
}

/// Sums that are to be rounded are kept apart until the last block of k: of so many rows at a time.
constexpr std::int64_t kRowsOfSums = 36 * kPanelRows;
bool keeps_sums(const MatmulShape& s) {
  return s.out == DType::bf16 && depth_of(s) > block_depth(depth_of(s));
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

/// What the largest rectangle costs, in cycles for each word of k: every panel of A is copied once
/// for each group of panels of B.
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

/// What one thread needs: two panels of A, one in use and one to come, a block of B, and sums.
std::int64_t floats_of_a() {
  return round_up(kPanelFloatsOfA, kLineFloats);
}
std::int64_t floats_of_b(const MatmulShape& s) {
  const std::int64_t depth = depth_of(s), block = block_depth(depth);
  return std::min(kPanelsOfB, pieces(s.n, kPanelColumns) * pieces(depth, block)) *
         panel_floats_of_b(std::min(block, depth));
}
std::int64_t floats_of_thread(const MatmulShape& s) {
  const std::int64_t sums = std::min(kRowsOfSums, s.m) *
                            std::min(kPanelsOfB * kPanelColumns, round_up(s.n, kPanelColumns));
  return 2 * floats_of_a() + floats_of_b(s) + (keeps_sums(s) ? round_up(sums, kLineFloats) : 0);
}

/// Whether every rectangle keeps all that it packs of B, as the squares of A's rows need.
bool keeps_b(const MatmulShape& s) {
  return pieces(s.n, kPanelColumns) * pieces(s.k, block_depth(s.k)) <= kPanelsOfB;  // of floats
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
        word_(word_of(s.in)),
        rounds_(s.out == DType::bf16),
        element_(size_bytes(s.in)),
        depth_(depth_of(s)),
        block_(block_depth(depth_)),
        group_(round_up(pieces(where.columns, pieces(where.columns, kPanelsOfB * kPanelColumns)),
                        kPanelColumns)),
        keeps_b_(pieces(where.columns, kPanelColumns) * pieces(depth_, block_) <= kPanelsOfB),
        squares_{where.column == 0 ? operands.squares.rows_of_a : nullptr,
                 where.row == 0 ? operands.squares.columns_of_b : nullptr},
        panels_of_a_{scratch, scratch + floats_of_a()},
        block_of_b_(scratch + 2 * floats_of_a()),
        sums_(keeps_sums(s) ? block_of_b_ + floats_of_b(s) : nullptr) {}

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
    if (keeps_b_ && p.k + block_ < depth_) {
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
    if (p.k >= depth_) {
      p.k = 0;
      p.column += group_;
    }
    return p;
  }
  float* packed_b(const Place& p, std::int64_t column) const {
    const std::int64_t before = keeps_b_ ? p.k / block_ * pieces(group_, kPanelColumns) : 0;
    return block_of_b_ + before * panel_floats_of_b(std::min(block_, depth_)) +
           column / kPanelColumns * panel_floats_of_b(depth(p));
  }
  std::int64_t depth(const Place& p) const { return std::min(block_, depth_ - p.k); }
  std::int64_t columns(const Place& p) const { return std::min(group_, where_.columns - p.column); }

  /// A piece of a matrix of `pitch` elements a row: from word k and `across` on in the other
  /// direction.
  PanelSource source(const std::byte* matrix,
                     bool along,
                     std::int64_t pitch,
                     const Place& p,
                     std::int64_t across) const {
    const std::int64_t elements = word_ == PanelWord::f32 ? 1 : 2;
    const std::int64_t at =
        along ? across * pitch + p.k * elements : p.k * elements * pitch + across;
    return {.first = matrix + at * element_,
            .pitch_bytes = pitch * element_,
            .along = along,
            .word = word_,
            .depth = depth(p),
            .half = (p.k + depth(p)) * elements > shape_.k};
  }
  /// Past the end, of no depth.
  PanelSource source_of_a(const Place& p) const {
    const bool along = shape_.form != MatmulForm::atb;
    PanelSource a = source(operands_.A, along, along ? shape_.k : shape_.m, p, where_.row + p.row);
    a.extent = panel_rows(where_.rows - p.row);
    if (p.column >= where_.columns) {
      a.depth = 0;
      a.half = false;
    }
    return a;
  }
  /// `column` within the group.
  PanelSource source_of_b(const Place& p, std::int64_t column) const {
    const bool along = shape_.form == MatmulForm::abt;
    PanelSource b = source(
        operands_.B, along, along ? shape_.k : shape_.n, p, where_.column + p.column + column);
    b.extent = std::min(kPanelColumns, columns(p) - column);
    return b;
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
    const std::int64_t at = where_.column + p.column + column,
                       in_c = (where_.row + p.row) * shape_.n + at;
    const bool last = p.k + block_ >= depth_;
    PanelCall call{.word = word_,
                   .a = panels_of_a_[0],
                   .b = packed_b(p, column),
                   .c = rounds_ ? sums_ + p.row * group_ + column
                                : reinterpret_cast<float*>(operands_.C) + in_c,
                   .ldc = rounds_ ? group_ : shape_.n,
                   .rows = panel_rows(where_.rows - p.row),
                   .columns = std::min(kPanelColumns, columns(p) - column),
                   .depth = depth(p),
                   .along = shape_.form != MatmulForm::atb,
                   .add = p.k > 0 || (mode_ == Accumulate::add && !rounds_),
                   .bias = shape_.bias && last ? operands_.bias + at * element_ : nullptr};
    if (rounds_ && last) {
      call.rounded = reinterpret_cast<bf16*>(operands_.C) + in_c;
      call.ld_rounded = shape_.n;
      call.add_rounded = mode_ == Accumulate::add;
    }
    return call;
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
    if (p.k + block_ >= depth_) {
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
    if (whole_panel_chunks(a) < panel_chunks(a.depth)) {  // shares are of whole chunks
      pack_panel_of_a(panels_of_a_[1], a, whole_panel_chunks(a), panel_chunks(a.depth));
    }
    return next;
  }

  const MatmulShape& shape_;
  const ProductOperands& operands_;
  Accumulate mode_;
  Rectangle where_;
  PanelWord word_;
  bool rounds_;
  std::int64_t element_;                // bytes
  std::int64_t depth_, block_, group_;  // of all words, of a block of them; columns
  bool keeps_b_;
  ProductSquares squares_;                        // that this rectangle takes
  double lanes_[kPanelRows * kSquareLanes] = {};  // of the panel of rows in hand
  float* panels_of_a_[2];
  float* block_of_b_;
  float* sums_;  // (rows, group): of the blocks of k so far, where the last one is rounded
};

}  // namespace

bool has_panel_product(const MatmulShape& shape) {
  if (shape.in == DType::f32) {
    return isa_level() == IsaLevel::avx512;
  }
  const bool whole_words = shape.form != MatmulForm::abt || shape.k % 2 == 0;
  return has_bf16_dot() && whole_words;
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
      const std::int64_t in = size_bytes(shape.in), out = size_bytes(shape.out);
      const ProductOperands own{.C = operands.C + batch * shape.m * shape.n * out,
                                .A = operands.A + batch * shape.m * shape.k * in,
                                .B = operands.B + batch * shape.k * shape.n * in,
                                .bias = operands.bias,
                                .squares = squares};
      const std::int64_t most = keeps_sums(shape) ? kRowsOfSums : rows.size;
      for (std::int64_t row = 0; row < rows.size; row += most) {
        RectangleProduct(
            shape,
            own,
            mode,
            {rows.begin + row, std::min(most, rows.size - row), columns.begin, columns.size},
            memory + slot * floats_of_thread(shape))
            .run();
      }
    }
  });
}

}  // namespace strata::cpu
