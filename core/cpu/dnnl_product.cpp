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
constexpr std::size_t kOperands = 4;
constexpr std::array kRoles{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};

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

dnnl::matmul::primitive_desc describe(const MatmulShape& s,
                                      std::int64_t batch,
                                      std::int64_t rows,
                                      std::int64_t columns,
                                      Accumulate mode) {
  const auto b_strides =
      s.form == MatmulForm::ab ? memory::dims{s.k * s.n, s.n, 1} : memory::dims{s.k * s.n, 1, s.k};
  const memory::desc a({batch, rows, s.k}, type_of(s.in), memory::dims{s.m * s.k, s.k, 1});
  const memory::desc b({batch, s.k, columns}, type_of(s.in), b_strides);
  const memory::desc c({batch, rows, columns}, type_of(s.out), memory::dims{s.m * s.n, s.n, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (mode == Accumulate::add) {
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    attributes.set_post_ops(sum);
  }
  return {dnnl::matmul::desc(a, b, c), attributes, engine()};
}

}  // namespace

DnnlProduct::DnnlProduct(const MatmulShape& shape, Accumulate mode, int threads)
    : shape_(shape), library_threads_(threads), stream_(engine()) {
  share_team(library_threads_);  // the library fixes its partition when a primitive is made
  if (keeps_bits(describe(shape, shape.batch, shape.m, shape.n, mode).impl_info_str())) {
    kernels_.push_back(prepare(shape.batch, shape.m, shape.n, mode));
    tiles_.push_back({0, 0, 0, 0});
  } else {
    cut(mode, threads);
  }
}

DnnlProduct::Kernel DnnlProduct::prepare(std::int64_t batch,
                                         std::int64_t rows,
                                         std::int64_t columns,
                                         Accumulate mode) {
  const auto described = describe(shape_, batch, rows, columns, mode);
  const memory::desc scratch = described.scratchpad_desc();
  constexpr std::int64_t kLine = 64;
  slot_scratch_bytes_ =
      std::max(slot_scratch_bytes_,
               (static_cast<std::int64_t>(scratch.get_size()) + kLine - 1) / kLine * kLine);
  Kernel kernel{dnnl::matmul(described), {}};
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    for (const memory::desc& operand :
         {described.src_desc(), described.weights_desc(), described.dst_desc(), scratch}) {
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
          kernels_.push_back(prepare(1, rows, columns, mode));
        }
        tiles_.push_back({batch, row, column, static_cast<std::size_t>(kernel)});
      }
    }
  }
}

std::int64_t DnnlProduct::scratch_bytes() const {
  return slot_scratch_bytes_ * static_cast<std::int64_t>(slots_);
}

void DnnlProduct::run_tile(const Tile& tile, std::size_t slot) {
  Kernel& kernel = kernels_[tile.kernel];
  const MatmulShape& s = shape_;
  const std::int64_t b_column = s.form == MatmulForm::ab ? tile.column : tile.column * s.k;
  const std::int64_t in = size_bytes(s.in), out = size_bytes(s.out);
  const std::array<const std::byte*, kOperands> bytes{
      call_.A + (tile.batch * s.m + tile.row) * s.k * in,
      call_.B + (tile.batch * s.k * s.n + b_column) * in,
      call_.C + ((tile.batch * s.m + tile.row) * s.n + tile.column) * out,
      call_.scratch + static_cast<std::int64_t>(slot) * slot_scratch_bytes_};
  std::array<dnnl_exec_arg_t, kOperands> arguments;
  for (std::size_t i = 0; i < kOperands; ++i) {
    memory& operand = kernel.operands[slot * kOperands + i];
    operand.set_data_handle(const_cast<std::byte*>(bytes[i]));
    arguments[i] = {kRoles[i], operand.get()};
  }
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(
          kernel.primitive.get(), stream_.get(), static_cast<int>(kOperands), arguments.data()),
      "execution failed");
}

void DnnlProduct::run(std::byte* C, const std::byte* A, const std::byte* B, std::byte* scratch) {
  call_ = {C, A, B, scratch};
  share_team(library_threads_);
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
