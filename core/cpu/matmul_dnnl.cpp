#include <algorithm>
#include <array>
#include <compare>
#include <cstdio>
#include <map>
#include <string>
#include <tuple>

#include <dnnl.hpp>

#include "core/cpu/dnnl_product.h"
#include "core/cpu/matmul.h"
#include "core/cpu/panel_product.h"
#include "core/cpu/simd.h"
#include "core/cpu/squares.h"
#include "core/cpu/transpose.h"
#include "core/error.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

[[noreturn]] void rethrow(const dnnl::error& error, const MatmulShape& s) {
  throw Error(Errc::internal,
              "matmul: oneDNN refused m " + std::to_string(s.m) + " n " + std::to_string(s.n) +
                  " k " + std::to_string(s.k) + " batch " + std::to_string(s.batch) + ": " +
                  error.what() + " (status " + std::to_string(error.status) + ")");
}

using Key = std::tuple<std::int64_t,
                       std::int64_t,
                       std::int64_t,
                       std::int64_t,
                       MatmulForm,
                       DType,
                       DType,
                       bool,
                       Accumulate,
                       int>;

/// A prepared product points at the bytes of its call, so each thread that computes has its own.
DnnlProduct& prepared(const MatmulShape& s, Accumulate mode) {
  thread_local std::map<Key, DnnlProduct> cache;
  const int threads = thread_count();
  const Key key{s.m, s.n, s.k, s.batch, s.form, s.in, s.out, s.bias, mode, threads};
  const auto found = cache.find(key);
  if (found != cache.end()) {
    return found->second;
  }
  try {
    return cache.try_emplace(key, s, mode, threads).first->second;
  } catch (const dnnl::error& error) {
    rethrow(error, s);
  }
}

void run_prepared(const ProductOperands& operands,
                  const MatmulShape& shape,
                  Accumulate mode,
                  std::span<std::byte> scratch) {
  DnnlProduct& product = prepared(shape, mode);
  STRATA_ASSERT(static_cast<std::int64_t>(scratch.size()) >= product.scratch_bytes());
  try {
    product.run(operands, scratch.data());
  } catch (const dnnl::error& error) {
    rethrow(error, shape);
  }
}

std::int64_t prepared_scratch_bytes(const MatmulShape& shape) {
  return std::max(prepared(shape, Accumulate::overwrite).scratch_bytes(),
                  prepared(shape, Accumulate::add).scratch_bytes());
}

constexpr std::int64_t whole_lines(std::int64_t size_bytes) {
  constexpr std::int64_t kLine = 64;
  return (size_bytes + kLine - 1) / kLine * kLine;
}

/// A^T * B on a transposed copy of A, for the library: its own such product splits k by threads.
struct Turned {
  MatmulShape shape;
  std::int64_t rest;  // offset of what the product itself needs

  explicit Turned(const MatmulShape& s)
      : shape(s), rest(whole_lines(s.batch * s.m * s.k * size_bytes(s.in))) {
    shape.form = MatmulForm::ab;
  }
};

void product_turned(const ProductOperands& operands,
                    const MatmulShape& s,
                    Accumulate mode,
                    std::span<std::byte> scratch) {
  const Turned turned(s);
  STRATA_ASSERT(static_cast<std::int64_t>(scratch.size()) >= turned.rest);
  const std::int64_t matrix = s.m * s.k * size_bytes(s.in);
  for (std::int64_t i = 0; i < s.batch; ++i) {
    transpose_matrix(
        scratch.data() + i * matrix, operands.A + i * matrix, s.k, s.m, size_bytes(s.in));
  }
  ProductOperands own = operands;
  own.A = scratch.data();
  run_prepared(own, turned.shape, mode, scratch.subspan(static_cast<std::size_t>(turned.rest)));
}

/// On operands of a type that the machine multiplies.
void product_of_type(const ProductOperands& operands,
                     const MatmulShape& shape,
                     Accumulate mode,
                     std::span<std::byte> scratch) {
  if (has_panel_product(shape)) {
    return panel_product(operands, shape, mode, scratch);
  }
  squares_apart(operands, shape);
  if (shape.form == MatmulForm::atb) {
    return product_turned(operands, shape, mode, scratch);
  }
  run_prepared(operands, shape, mode, scratch);
}

std::int64_t scratch_bytes_of_type(const MatmulShape& shape) {
  if (has_panel_product(shape)) {
    return panel_product_scratch_bytes(shape);
  }
  if (shape.form == MatmulForm::atb) {
    const Turned turned(shape);
    return turned.rest + prepared_scratch_bytes(turned.shape);
  }
  return prepared_scratch_bytes(shape);
}

std::string kernel_of_type(const MatmulShape& shape) {
  if (has_panel_product(shape)) {
    return shape.in == DType::f32 ? "strata:avx512 panels" : "strata:avx512 panels of bf16 pairs";
  }
  const MatmulShape own = shape.form == MatmulForm::atb ? Turned(shape).shape : shape;
  return prepared(own, Accumulate::overwrite).kernel_name();
}

/// Without bf16 instructions the library has bf16 products only as a reference loop, a hundred
/// times slower than f32.
bool has_fast_bf16() {
  constexpr auto kBits = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  static const bool has = (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kBits) == kBits;
  return has;
}

void warn_once_about_widening() {
  static const bool warned = [] {
    std::fputs("strata: this machine has no bf16 products; operands are widened to f32\n", stderr);
    return true;
  }();
  static_cast<void>(warned);
}

template <class To, class From>
void convert(To* to, const From* from, std::int64_t n) {
  constexpr std::int64_t kGrain = 4096;
  parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    simd([&] {
      for (std::int64_t i = begin; i < end; ++i) {
        store(to[i], load(from[i]));
      }
    });
  });
}

/// A product on f32 copies of the operands: how its scratch is laid out.
struct Widened {
  MatmulShape shape;
  // Offsets; c is used when the result is bf16.
  std::int64_t a = 0, b = 0, bias = 0, c = 0, rest = 0;

  explicit Widened(const MatmulShape& s) : shape(s) {
    const auto floats = [](std::int64_t n) { return whole_lines(n * std::int64_t{sizeof(float)}); };
    shape.in = shape.out = DType::f32;
    b = floats(s.batch * s.m * s.k);
    bias = b + floats(s.batch * s.k * s.n);
    c = bias + (s.bias ? floats(s.n) : 0);
    rest = c + (s.out == DType::bf16 ? floats(s.batch * s.m * s.n) : 0);
  }
};

void product_widened(const ProductOperands& operands,
                     const MatmulShape& s,
                     Accumulate mode,
                     std::span<std::byte> scratch) {
  warn_once_about_widening();
  const Widened wide(s);
  STRATA_ASSERT(static_cast<std::int64_t>(scratch.size()) >= wide.rest);
  const auto floats_at = [&](std::int64_t offset) {
    return reinterpret_cast<float*>(scratch.data() + offset);
  };
  auto* narrow = reinterpret_cast<bf16*>(operands.C);
  const bool rounds = s.out == DType::bf16;
  const std::int64_t results = s.batch * s.m * s.n;
  convert(floats_at(wide.a), reinterpret_cast<const bf16*>(operands.A), s.batch * s.m * s.k);
  convert(floats_at(wide.b), reinterpret_cast<const bf16*>(operands.B), s.batch * s.k * s.n);
  if (s.bias) {
    convert(floats_at(wide.bias), reinterpret_cast<const bf16*>(operands.bias), s.n);
  }
  if (rounds && mode == Accumulate::add) {
    convert(floats_at(wide.c), narrow, results);
  }
  product_of_type({.C = rounds ? scratch.data() + wide.c : operands.C,
                   .A = scratch.data() + wide.a,
                   .B = scratch.data() + wide.b,
                   .bias = scratch.data() + wide.bias},
                  wide.shape,
                  mode,
                  scratch.subspan(static_cast<std::size_t>(wide.rest)));
  if (rounds) {
    convert(narrow, floats_at(wide.c), results);
  }
}

bool widens(const MatmulShape& shape) {
  return shape.in == DType::bf16 && !has_panel_product(shape) && !has_fast_bf16();
}

}  // namespace

std::int64_t product_scratch_bytes(const MatmulShape& shape) {
  if (widens(shape)) {
    const Widened wide(shape);
    return wide.rest + scratch_bytes_of_type(wide.shape);
  }
  return scratch_bytes_of_type(shape);
}

void product(const ProductOperands& operands,
             const MatmulShape& shape,
             Accumulate mode,
             std::span<std::byte> scratch) {
  if (widens(shape)) {
    return product_widened(operands, shape, mode, scratch);
  }
  product_of_type(operands, shape, mode, scratch);
}

std::string product_kernel(const MatmulShape& shape) {
  if (widens(shape)) {
    return kernel_of_type(Widened(shape).shape) + " on f32 copies";
  }
  return kernel_of_type(shape);
}

bool product_reads_transposed(DType in) {
  return has_panel_product({.in = in});
}

bool product_has_bf16() {
  return has_fast_bf16() || has_bf16_dot();
}

std::string product_library() {
  const dnnl_version_t* v = dnnl_version();
  // The instruction set decides the bits as much as the version does, and whether f32 is ours.
  const std::string panels = has_bf16_dot()                    ? "avx512 panels, "
                             : isa_level() == IsaLevel::avx512 ? "f32 avx512 panels, "
                                                               : "";
  return panels + "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
         std::to_string(v->patch) + " isa " + std::to_string(dnnl_get_effective_cpu_isa());
}

}  // namespace strata::cpu
