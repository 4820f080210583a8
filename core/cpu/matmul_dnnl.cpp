#include <algorithm>
#include <array>
#include <compare>
#include <cstdio>
#include <map>
#include <string>
#include <tuple>

#include <dnnl.hpp>

#include "core/cpu/matmul.h"
#include "core/cpu/simd.h"
#include "core/cpu/team.h"
#include "core/error.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

[[noreturn]] void rethrow(const dnnl::error& error, const MatmulShape& s) {
  throw Error(Errc::internal,
              "matmul: oneDNN refused m " + std::to_string(s.m) + " n " + std::to_string(s.n) +
                  " k " + std::to_string(s.k) + " batch " + std::to_string(s.batch) + ": " +
                  error.what() + " (status " + std::to_string(error.status) + ")");
}

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

/// One prepared product. The memory objects are kept and only pointed at new bytes, so that a call
/// allocates nothing of ours.
class Primitive {
 public:
  Primitive(const MatmulShape& s, Accumulate mode) {
    const auto b_strides = s.form == MatmulForm::ab ? memory::dims{s.k * s.n, s.n, 1}
                                                    : memory::dims{s.k * s.n, 1, s.k};
    const memory::desc a({s.batch, s.m, s.k}, type_of(s.in), memory::format_tag::abc);
    const memory::desc b({s.batch, s.k, s.n}, type_of(s.in), b_strides);
    const memory::desc c({s.batch, s.m, s.n}, type_of(s.out), memory::format_tag::abc);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (mode == Accumulate::add) {
      dnnl::post_ops sum;
      sum.append_sum(1.f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc prepared(dnnl::matmul::desc(a, b, c), attributes, engine());
    const memory::desc scratch = prepared.scratchpad_desc();
    scratch_bytes_ = static_cast<std::int64_t>(scratch.get_size());
    matmul_ = dnnl::matmul(prepared);
    operands_ = {memory(a, engine(), nullptr),
                 memory(b, engine(), nullptr),
                 memory(c, engine(), nullptr),
                 memory(scratch, engine(), nullptr)};
    constexpr std::array roles{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    for (std::size_t i = 0; i < roles.size(); ++i) {
      arguments_[i] = {roles[i], operands_[i].get()};
    }
  }

  std::int64_t scratch_bytes() const { return scratch_bytes_; }

  void run(std::byte* C, const std::byte* A, const std::byte* B, std::byte* scratch) {
    operands_[0].set_data_handle(const_cast<std::byte*>(A));
    operands_[1].set_data_handle(const_cast<std::byte*>(B));
    operands_[2].set_data_handle(C);
    operands_[3].set_data_handle(scratch);
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(
            matmul_.get(), stream_.get(), static_cast<int>(arguments_.size()), arguments_.data()),
        "execution failed");
  }

 private:
  dnnl::stream stream_{engine()};
  dnnl::matmul matmul_;
  std::array<memory, 4> operands_;
  std::array<dnnl_exec_arg_t, 4> arguments_{};
  std::int64_t scratch_bytes_ = 0;
};

using Key = std::tuple<std::int64_t,
                       std::int64_t,
                       std::int64_t,
                       std::int64_t,
                       MatmulForm,
                       DType,
                       DType,
                       Accumulate,
                       int>;

/// Primitives point at bytes while they run, so each thread has its own (ranks in one process).
/// The library fixes its partition when a primitive is made, hence the thread count in the key.
Primitive& primitive(const MatmulShape& s, Accumulate mode) {
  thread_local std::map<Key, Primitive> cache;
  const int threads = thread_count();
  share_team(threads);
  const Key key{s.m, s.n, s.k, s.batch, s.form, s.in, s.out, mode, threads};
  const auto found = cache.find(key);
  if (found != cache.end()) {
    return found->second;
  }
  try {
    return cache.try_emplace(key, s, mode).first->second;
  } catch (const dnnl::error& error) {
    rethrow(error, s);
  }
}

void run_primitive(std::byte* C,
                   const std::byte* A,
                   const std::byte* B,
                   const MatmulShape& shape,
                   Accumulate mode,
                   std::span<std::byte> scratch) {
  Primitive& prepared = primitive(shape, mode);
  STRATA_ASSERT(static_cast<std::int64_t>(scratch.size()) >= prepared.scratch_bytes());
  try {
    prepared.run(C, A, B, scratch.data());
  } catch (const dnnl::error& error) {
    rethrow(error, shape);
  }
}

std::int64_t primitive_scratch_bytes(const MatmulShape& shape) {
  return std::max(primitive(shape, Accumulate::overwrite).scratch_bytes(),
                  primitive(shape, Accumulate::add).scratch_bytes());
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
  std::int64_t a = 0, b = 0, c = 0, rest = 0;  // offsets; c is used when the result is bf16

  explicit Widened(const MatmulShape& s) : shape(s) {
    constexpr std::int64_t kLine = 64;
    const auto floats = [](std::int64_t n) {
      return (n * std::int64_t{sizeof(float)} + kLine - 1) / kLine * kLine;
    };
    shape.in = shape.out = DType::f32;
    b = floats(s.batch * s.m * s.k);
    c = b + floats(s.batch * s.k * s.n);
    rest = c + (s.out == DType::bf16 ? floats(s.batch * s.m * s.n) : 0);
  }
};

void product_widened(std::byte* C,
                     const std::byte* A,
                     const std::byte* B,
                     const MatmulShape& s,
                     Accumulate mode,
                     std::span<std::byte> scratch) {
  warn_once_about_widening();
  const Widened wide(s);
  STRATA_ASSERT(static_cast<std::int64_t>(scratch.size()) >= wide.rest);
  auto* a = reinterpret_cast<float*>(scratch.data() + wide.a);
  auto* b = reinterpret_cast<float*>(scratch.data() + wide.b);
  auto* c = reinterpret_cast<float*>(scratch.data() + wide.c);
  auto* narrow = reinterpret_cast<bf16*>(C);
  const bool rounds = s.out == DType::bf16;
  convert(a, reinterpret_cast<const bf16*>(A), s.batch * s.m * s.k);
  convert(b, reinterpret_cast<const bf16*>(B), s.batch * s.k * s.n);
  if (rounds && mode == Accumulate::add) {
    convert(c, narrow, s.batch * s.m * s.n);
  }
  run_primitive(rounds ? scratch.data() + wide.c : C,
                scratch.data() + wide.a,
                scratch.data() + wide.b,
                wide.shape,
                mode,
                scratch.subspan(static_cast<std::size_t>(wide.rest)));
  if (rounds) {
    convert(narrow, c, s.batch * s.m * s.n);
  }
}

bool widens(const MatmulShape& shape) {
  return shape.in == DType::bf16 && !has_fast_bf16();
}

}  // namespace

std::int64_t product_scratch_bytes(const MatmulShape& shape) {
  if (widens(shape)) {
    const Widened wide(shape);
    return wide.rest + primitive_scratch_bytes(wide.shape);
  }
  return primitive_scratch_bytes(shape);
}

void product(std::byte* C,
             const std::byte* A,
             const std::byte* B,
             const MatmulShape& shape,
             Accumulate mode,
             std::span<std::byte> scratch) {
  if (widens(shape)) {
    return product_widened(C, A, B, shape, mode, scratch);
  }
  run_primitive(C, A, B, shape, mode, scratch);
}

}  // namespace strata::cpu
