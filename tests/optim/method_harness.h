#pragma once
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "core/runtime.h"
#include "optim/optimizer.h"

namespace strata::optim {

/// One tensor under a method, without packs: T = float as in training, or double, for published
/// float64 traces through the same rule. Leaves team and instruction set as it found them.
template <class T>
class MethodHarness {
 public:
  MethodHarness(std::string_view method,
                std::vector<Setting> settings,
                std::vector<T> start,
                Role role = Role::matrix)
      : method_(make_optimizer(method, settings)),
        param_{7, "w", role, {static_cast<std::int64_t>(start.size())}},
        weight_(Tensor::zeros(dtype_of<T>(), param_.shape)),
        grad_(Tensor::zeros(dtype_of<T>(), param_.shape)) {
    std::copy(start.begin(), start.end(), weight_.data<T>());
    layout_ = method_->state_layout(param_);
    for (const StateField& field : layout_) {
      fields_.push_back(Tensor::zeros(dtype_of<T>(), param_.shape));
      views_.set(field.name, fields_.back());
    }
  }
  void step(std::span<const T> g, double lr, float grad_scale = 1.f) {
    std::copy(g.begin(), g.end(), grad_.data<T>());
    Slice slice{.param = &param_,
                .format = working_ ? WeightFormat::bf16_master : WeightFormat::f32,
                .master = weight_,
                .working = working_,
                .residue = {},
                .codes = {},
                .affine = {}};
    Workspace none;
    method_->update(
        slice, {grad_, &param_, 0}, views_, {}, none, {++t_, 0, lr, grad_scale}, compute_stream());
  }
  void keep_working_copy() { working_ = Tensor::zeros(DType::bf16, param_.shape); }
  std::span<const T> weights() const { return {weight_.data<T>(), size()}; }
  std::span<const bf16> working() const { return {working_.data<bf16>(), size()}; }
  const StateLayout& layout() const { return layout_; }
  std::vector<double> as_double() const { return {weights().begin(), weights().end()}; }
  /// Weights and all state, one after the other.
  std::vector<T> everything() const {
    std::vector<T> all(weights().begin(), weights().end());
    for (const Tensor& field : fields_) {
      all.insert(all.end(), field.data<T>(), field.data<T>() + size());
    }
    return all;
  }

 private:
  std::size_t size() const { return static_cast<std::size_t>(param_.shape.numel()); }
  std::unique_ptr<Optimizer> method_;
  ParamInfo param_;
  Tensor weight_, grad_, working_;
  StateLayout layout_;
  std::vector<Tensor> fields_;
  StateViews views_;
  std::int64_t t_ = 0;
};

/// Calls body under every instruction-set level of this machine, with 1, 2 and 3 threads.
template <class Body>
void for_every_way_to_run(const Body& body) {
  const cpu::IsaLevel best = cpu::isa_level();
  const int threads = thread_count();
  for (const auto level : {cpu::IsaLevel::base, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512}) {
    for (const int count : {1, 2, 3}) {
      if (level <= best) {
        cpu::force_isa_level(level);
        set_thread_count(count);
        body();
      }
    }
  }
  cpu::force_isa_level(best);
  set_thread_count(threads);
}

}  // namespace strata::optim
