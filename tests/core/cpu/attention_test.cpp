#include "core/cpu/attention.h"

#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"

namespace strata {
namespace {

using cpu::AttentionDims;

Tensor random_tensor(DType dtype, const Shape& shape, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<float> uniform(-1.f, 1.f);
  Tensor t = Tensor::zeros(dtype, shape);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    if (dtype == DType::f32) {
      t.data<float>()[i] = uniform(engine);
    } else {
      t.data<bf16>()[i] = to_bf16(uniform(engine));
    }
  }
  return t;
}

/// Between tensors of equal shape (B, T, W), whatever their rows stand in.
void copy_values(const Tensor& to, const Tensor& from) {
  const Shape& shape = to.shape();
  const std::int64_t size = size_bytes(to.dtype());
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t t = 0; t < shape[1]; ++t) {
      std::memcpy(to.bytes() + (b * to.strides()[0] + t * to.strides()[1]) * size,
                  from.bytes() + (b * from.strides()[0] + t * from.strides()[1]) * size,
                  static_cast<std::size_t>(shape[2] * size));
    }
  }
}

Tensor dense(const Tensor& x) {
  Tensor copy = Tensor::zeros(x.dtype(), x.shape());
  copy_values(copy, x);
  return copy;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.bytes(), b.bytes(), static_cast<std::size_t>(a.size_bytes())) == 0;
}

struct Operands {
  Tensor q, k, v, y, dy, dq, dk, dv, lse;
};

void run(const Operands& x, const AttentionDims& dims, Accumulate mode) {
  Tensor documents = Tensor::zeros(DType::i32, {dims.B, dims.T});
  for (std::int64_t t = 60; t < dims.T; ++t) {
    documents.data<std::int32_t>()[t] = 60;
  }
  const Tensor forward = Tensor::zeros(DType::u8, {cpu::attention_forward_scratch_bytes(dims)});
  cpu::attention_forward(x.y,
                         x.lse,
                         x.q,
                         x.k,
                         x.v,
                         documents,
                         dims,
                         {forward.bytes(), static_cast<std::size_t>(forward.size_bytes())});
  const Tensor backward = Tensor::zeros(DType::u8, {cpu::attention_backward_scratch_bytes(dims)});
  cpu::attention_backward({x.dq, mode},
                          {x.dk, mode},
                          {x.dv, mode},
                          x.dy,
                          {x.q, x.k, x.v, x.y, x.lse},
                          documents,
                          dims,
                          {backward.bytes(), static_cast<std::size_t>(backward.size_bytes())});
}

void expect_views_do_as_copies_do(DType dtype, Accumulate mode) {
  const AttentionDims dims{2, 101, 4, 2, 20, thread_count()};
  const std::int64_t q = dims.H * dims.D, k = dims.K * dims.D, gap = 3, width = gap + q + 2 * k + 1;
  const auto columns = [=](const Tensor& x, int part) {
    const std::int64_t begin[] = {gap, gap + q, gap + q + k, gap + q + 2 * k};
    return x.columns(begin[part], begin[part + 1]);
  };
  const Tensor in = random_tensor(dtype, {dims.B, dims.T, width}, 1);
  const Tensor out = random_tensor(dtype, {dims.B, dims.T, 2 * q + 5}, 2);
  const Tensor grads = random_tensor(dtype, {dims.B, dims.T, width}, 3);
  const Operands views{.q = columns(in, 0),
                       .k = columns(in, 1),
                       .v = columns(in, 2),
                       .y = out.columns(1, 1 + q),
                       .dy = out.columns(4 + q, 4 + 2 * q),
                       .dq = columns(grads, 0),
                       .dk = columns(grads, 1),
                       .dv = columns(grads, 2),
                       .lse = Tensor::zeros(DType::f32, {dims.B, dims.H, dims.T})};
  const Operands copies{.q = dense(views.q),
                        .k = dense(views.k),
                        .v = dense(views.v),
                        .y = dense(views.y),
                        .dy = dense(views.dy),
                        .dq = dense(views.dq),
                        .dk = dense(views.dk),
                        .dv = dense(views.dv),
                        .lse = Tensor::zeros(DType::f32, {dims.B, dims.H, dims.T})};
  Tensor want_out = dense(out), want_grads = dense(grads);
  run(copies, dims, mode);
  run(views, dims, mode);
  copy_values(want_out.columns(1, 1 + q), copies.y);
  copy_values(columns(want_grads, 0), copies.dq);
  copy_values(columns(want_grads, 1), copies.dk);
  copy_values(columns(want_grads, 2), copies.dv);
  // Whole tensors: what stands beside the columns stays as it was.
  EXPECT_TRUE(same_bytes(out, want_out));
  EXPECT_TRUE(same_bytes(grads, want_grads));
  EXPECT_TRUE(same_bytes(views.lse, copies.lse));
}

TEST(AttentionKernel, TakesColumnsOfWiderTensors) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
      expect_views_do_as_copies_do(dtype, mode);
    }
  }
}

TEST(AttentionKernel, NeedsNoScratchThatGrowsWithTheSquareOfT) {
  const AttentionDims one{1, 1 << 12, 12, 12, 64, 2}, two{1, 1 << 13, 12, 12, 64, 2};
  EXPECT_LE(cpu::attention_forward_scratch_bytes(two),
            2 * cpu::attention_forward_scratch_bytes(one));
  EXPECT_LE(cpu::attention_backward_scratch_bytes(two),
            2 * cpu::attention_backward_scratch_bytes(one));
}

/// Bytes of everything, with the work cut for `slices` slices on as many threads.
std::vector<std::byte> bytes_with(DType dtype, int slices) {
  const int before = thread_count();
  set_thread_count(slices);
  const AttentionDims dims{1, 250, 4, 1, 24, slices};
  const std::int64_t q = dims.H * dims.D, k = dims.K * dims.D;
  const auto of = [&](std::int64_t width, std::uint64_t seed) {
    return random_tensor(dtype, {dims.B, dims.T, width}, seed);
  };
  const Operands x{.q = of(q, 1),
                   .k = of(k, 2),
                   .v = of(k, 3),
                   .y = of(q, 4),
                   .dy = of(q, 5),
                   .dq = of(q, 6),
                   .dk = of(k, 7),
                   .dv = of(k, 8),
                   .lse = Tensor::zeros(DType::f32, {dims.B, dims.H, dims.T})};
  run(x, dims, Accumulate::overwrite);
  set_thread_count(before);
  std::vector<std::byte> all;
  for (const Tensor* t : {&x.y, &x.lse, &x.dq, &x.dk, &x.dv}) {
    all.insert(all.end(), t->bytes(), t->bytes() + t->size_bytes());
  }
  return all;
}

TEST(AttentionKernel, GivesTheSameBitsHoweverTheWorkIsCut) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::vector<std::byte> want = bytes_with(dtype, 1);
    for (const int slices : {2, 3, 8}) {
      EXPECT_EQ(bytes_with(dtype, slices), want) << slices << " slices";
    }
  }
}

}  // namespace
}  // namespace strata
