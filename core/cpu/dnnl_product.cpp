#include "core/cpu/dnnl_product.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <string_view>

#include "core/cpu/team.h"
#include "core/error.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

using dnnl::memory;

// Sizes of the tiles change bits on machines that cut them, and the row tile is where callers may
// cut.
constexpr std::int64_t kRowTile = kMatmulRowCut;
constexpr std::int64_t kColumnTile = 256;
constexpr std::array kRoles{
    DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
constexpr std::size_t kOperands = kRoles.size();
constexpr std::int64_t kLine = 64;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

/// Kernels that the byte test has shown to sum over k alike for every thread count and row cut. The
/// gemm of machines without AVX-512 does not (158 of 234 shapes differ between 1 and 16 threads),
/// AMX could not be tried: these get one thread and tiles of ours.
bool keeps_bits(std::string_view kernel) {
  return kernel.starts_with("brg:avx512_core") && kernel.find("amx") == std::string_view::npos;
}

enum class Weights : std::uint8_t { plain, as_the_kernel_likes };

dnnl::matmul::primitive_desc describe(const MatmulShape& s,
                                      std::int64_t batch,
                                      std::int64_t rows,
                                      std::int64_t columns,
                                      Accumulate mode,
                                      Weights weights = Weights::plain) {
  const bool ab = s.form == MatmulForm::ab;
  // The library lays out weights of its own choice for two dimensions only.
  const auto matrix = [&](std::int64_t m, std::int64_t n, DType type, const memory::dims& strides) {
    return batch == 1 ? memory::desc({m, n}, type_of(type), {strides[1], strides[2]})
                      : memory::desc({batch, m, n}, type_of(type), strides);
  };
  const memory::desc a = matrix(rows, s.k, s.in, {s.m * s.k, s.k, 1});
  const memory::desc b = weights == Weights::plain
                             ? matrix(s.k, columns, s.in, {s.k * s.n, ab ? s.n : 1, ab ? 1 : s.k})
                             : memory::desc({s.k, columns}, type_of(s.in), memory::format_tag::any);
  const memory::desc c = matrix(rows, columns, s.out, {s.m * s.n, s.n, 1});
  const memory::desc bias = s.bias ? matrix(1, columns, s.in, {0, s.n, 1}) : memory::desc();
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (mode == Accumulate::add) {
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    attributes.set_post_ops(sum);
  }
  return {dnnl::matmul::desc(a, b, bias, c), attributes, engine()};
}

std::int64_t whole_lines(std::size_t size_bytes) {
  return (static_cast<std::int64_t>(size_bytes) + kLine - 1) / kLine * kLine;
}

}  // namespace

DnnlProduct::DnnlProduct(const MatmulShape& shape, Accumulate mode, int threads)
    : shape_(shape), library_threads_(threads), stream_(engine()) {
  share_team(library_threads_);  // the library fixes its partition when a primitive is made
  const auto plain = describe(shape, shape.batch, shape.m, shape.n, mode);
  if (!keeps_bits(plain.impl_info_str())) {
    cut(mode, threads);
    return;
  }
  if (!pack(mode)) {
    kernels_.push_back(prepare(plain));
  }
  tiles_.push_back({0, 0, 0, 0});
}

/// The kernels copy B into such a layout anyway, every thread for itself and again for each block
/// of rows. One copy by all threads beforehand costs less where it serves enough rows; the bytes of
/// the result are the same (tests/core/matmul_prepack_test.cpp).
bool DnnlProduct::pack(Accumulate mode) {
  constexpr std::int64_t kEnoughRows = 256;
  if (shape_.batch > 1 || shape_.m < kEnoughRows) {
    return false;
  }
  const auto described =
      describe(shape_, 1, shape_.m, shape_.n, mode, Weights::as_the_kernel_likes);
  const memory::desc plain = describe(shape_, 1, shape_.m, shape_.n, mode).weights_desc();
  if (!keeps_bits(described.impl_info_str()) || described.weights_desc() == plain) {
    return false;
  }
  memory from(plain, engine(), nullptr), to(described.weights_desc(), engine(), nullptr);
  dnnl::reorder reorder(dnnl::reorder::primitive_desc(engine(), plain, engine(), to.get_desc()));
  kernels_.push_back(prepare(described));
  packing_ = {std::move(reorder), from, to, whole_lines(to.get_desc().get_size())};
  return true;
}

DnnlProduct::Kernel DnnlProduct::prepare(const dnnl::matmul::primitive_desc& described) {
  kernel_name_ = described.impl_info_str();
  const memory::desc scratch = described.scratchpad_desc();
  slot_scratch_bytes_ = std::max(slot_scratch_bytes_, whole_lines(scratch.get_size()));
  Kernel kernel{dnnl::matmul(described), {}};
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    for (const memory::desc& operand : {described.src_desc(),
                                        described.weights_desc(),
                                        described.bias_desc(),
                                        described.dst_desc(),
                                        scratch}) {
      kernel.operands.emplace_back(operand, engine(), nullptr);
    }
  }
  return kernel;
}

void DnnlProduct::cut(Accumulate mode, int threads) {
  share_team(library_threads_ = 1);
  const auto pieces = [](std::int64_t n, std::int64_t tile) { return (n + tile - 1) / tile; };
  const std::int64_t tiles =
      shape_.batch * pieces(shape_.m, kRowTile) * pieces(shape_.n, kColumnTile);
  slots_ = static_cast<std::size_t>(std::min<std::int64_t>(threads, tiles));
  std::array<int, 4> made{-1, -1, -1, -1};  // inner, last column, last row, corner
  for (std::int64_t batch = 0; batch < shape_.batch; ++batch) {
    for (std::int64_t column = 0; column < shape_.n; column += kColumnTile) {
      for (std::int64_t row = 0; row < shape_.m; row += kRowTile) {
        const std::int64_t rows = std::min(kRowTile, shape_.m - row);
        const std::int64_t columns = std::min(kColumnTile, shape_.n - column);
        int& kernel = made[(rows < kRowTile ? 2u : 0u) + (columns < kColumnTile ? 1u : 0u)];
        if (kernel < 0) {
          kernel = static_cast<int>(kernels_.size());
          kernels_.push_back(prepare(describe(shape_, 1, rows, columns, mode)));
        }
        tiles_.push_back({batch, row, column, static_cast<std::size_t>(kernel)});
      }
    }
  }
  kernel_name_ += " in tiles";
}

std::int64_t DnnlProduct::scratch_bytes() const {
  return slot_scratch_bytes_ * static_cast<std::int64_t>(slots_) +
         (packing_ ? packing_->size_bytes : 0);
}

void DnnlProduct::run_tile(const Tile& tile, std::size_t slot) {
  Kernel& kernel = kernels_[tile.kernel];
  const MatmulShape& s = shape_;
  const std::int64_t b_column = s.form == MatmulForm::ab ? tile.column : tile.column * s.k;
  const std::int64_t in = size_bytes(s.in), out = size_bytes(s.out);
  const std::array<const std::byte*, kOperands> bytes{
      call_.A + (tile.batch * s.m + tile.row) * s.k * in,
      call_.B + (tile.batch * s.k * s.n + b_column) * in,
      s.bias ? call_.bias + tile.column * in : nullptr,
      call_.C + ((tile.batch * s.m + tile.row) * s.n + tile.column) * out,
      scratch_ + static_cast<std::int64_t>(slot) * slot_scratch_bytes_};
  std::array<dnnl_exec_arg_t, kOperands> arguments;
  int count = 0;
  for (std::size_t i = 0; i < kOperands; ++i) {
    if (bytes[i] != nullptr) {
      memory& operand = kernel.operands[slot * kOperands + i];
      operand.set_data_handle(const_cast<std::byte*>(bytes[i]));
      arguments[static_cast<std::size_t>(count++)] = {kRoles[i], operand.get()};
    }
  }
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(kernel.primitive.get(), stream_.get(), count, arguments.data()),
      "execution failed");
}

void DnnlProduct::pack_weights() {
  packing_->plain.set_data_handle(const_cast<std::byte*>(call_.B));
  packing_->packed.set_data_handle(scratch_);
  const std::array<dnnl_exec_arg_t, 2> arguments{
      {{DNNL_ARG_FROM, packing_->plain.get()}, {DNNL_ARG_TO, packing_->packed.get()}}};
  dnnl::error::wrap_c_api(dnnl_primitive_execute(packing_->primitive.get(),
                                                 stream_.get(),
                                                 static_cast<int>(arguments.size()),
                                                 arguments.data()),
                          "packing failed");
  call_.B = scratch_;
  scratch_ += packing_->size_bytes;
}

void DnnlProduct::run(const ProductOperands& operands, std::byte* scratch) {
  call_ = operands;
  scratch_ = scratch;
  share_team(library_threads_);
  if (packing_) {
    pack_weights();
  }
  if (tiles_.size() == 1) {
    return run_tile(tiles_[0], 0);
  }
  std::atomic<std::size_t> next{0};
  parallel_for(static_cast<std::int64_t>(slots_), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto slot = static_cast<std::size_t>(begin); slot < static_cast<std::size_t>(end);
         ++slot) {
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tiles_.size();) {
        run_tile(tiles_[i], slot);
      }
    }
  });
}

}  // namespace strata::cpu
