#include "core/cpu/matmul.h"
#include "core/cpu/squares.h"
#include "core/parallel_for.h"

namespace strata::cpu {

namespace {

template <class In, class Out>
void multiply(
    Out* c, const In* a, const In* b, const In* bias, const MatmulShape& s, Accumulate mode) {
  const bool abt = s.form == MatmulForm::abt, atb = s.form == MatmulForm::atb;
  const std::int64_t step_k = abt ? 1 : s.n, step_n = abt ? s.k : 1;
  const std::int64_t a_step_k = atb ? s.m : 1, a_step_m = atb ? 1 : s.k;
  parallel_for(s.batch * s.m, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const In* b_of_batch = b + row / s.m * s.k * s.n;
      const In* a_of_row = a + row / s.m * s.m * s.k + row % s.m * a_step_m;
      for (std::int64_t j = 0; j < s.n; ++j) {
        float sum = s.bias ? load(bias[j]) : 0.f;
        for (std::int64_t p = 0; p < s.k; ++p) {
          sum += load(a_of_row[p * a_step_k]) * load(b_of_batch[p * step_k + j * step_n]);
        }
        Out& to = c[row * s.n + j];
        store(to, mode == Accumulate::add ? load(to) + sum : sum);
      }
    }
  });
}

}  // namespace

std::int64_t product_scratch_bytes(const MatmulShape&) {
  return 0;
}

void product(const ProductOperands& operands,
             const MatmulShape& shape,
             Accumulate mode,
             std::span<std::byte>) {
  squares_apart(operands, shape);
  const auto with_input = [&]<class In>(const In* a) {
    const auto* b = reinterpret_cast<const In*>(operands.B);
    const auto* bias = reinterpret_cast<const In*>(operands.bias);
    if (shape.out == DType::f32) {
      multiply(reinterpret_cast<float*>(operands.C), a, b, bias, shape, mode);
    } else {
      multiply(reinterpret_cast<bf16*>(operands.C), a, b, bias, shape, mode);
    }
  };
  if (shape.in == DType::f32) {
    with_input(reinterpret_cast<const float*>(operands.A));
  } else {
    with_input(reinterpret_cast<const bf16*>(operands.A));
  }
}

std::string product_library() {
  return "plain loops";
}

std::string product_kernel(const MatmulShape&) {
  return "plain loops";
}

bool product_reads_transposed(DType) {
  return true;
}

bool product_has_bf16() {
  return false;
}

}  // namespace strata::cpu
