#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/philox.h"
#include "core/runtime.h"
#include "optim/optimizer.h"
#include "optim/weight_update.h"
#include "tests/support/twins/formats.h"

namespace strata::tests {

/// A matrix, embedding or vector under a method, and how its weights are kept.
struct TensorCase {
  std::string method;
  std::vector<optim::Setting> settings = {};
  Shape shape = {37, 61};
  Role role = Role::matrix;
  WeightFormat format = WeightFormat::f32;
  int output_axis = 0;
  std::uint64_t seed = 5;
};

/// One whole tensor updated by a method, with everything that the method reads and writes in the
/// open. Any weight format, statistics and workspace included.
class OneTensor {
 public:
  OneTensor(TensorCase what, std::span<const float> start)
      : case_(std::move(what)),
        method_(optim::make_optimizer(case_.method, case_.settings)),
        param_{kId, "w", case_.role, case_.shape, case_.output_axis},
        grad_(Tensor::zeros(DType::f32, {numel()})) {
    make_weights();
    optim::start_weights(slice_, 0, numel(), start.data());
    for (const StateField& field : method_->state_layout(param_)) {
      layout_.push_back(field);
    }
    for (const StateField& field : layout_) {
      const std::int64_t count = field_numel(field, param_.shape, 0, numel());
      fields_.push_back(Tensor::zeros(field.dtype, {count}));
      views_.set(field.name, fields_.back());
    }
    method_->init(param_, views_, compute_stream());
    const std::int64_t bytes = method_->needs(param_, 1).workspace_bytes;
    workspace_ = Tensor::zeros(DType::u8, {bytes + 64});
  }
  OneTensor(const OneTensor&) = delete;
  OneTensor& operator=(const OneTensor&) = delete;

  static constexpr TensorId kId = 7;
  std::int64_t numel() const { return case_.shape.numel(); }
  std::size_t size() const { return static_cast<std::size_t>(numel()); }
  std::int64_t steps() const { return t_; }

  void step(std::span<const float> g, double lr, float grad_scale = 1.f) {
    std::copy(g.begin(), g.end(), grad_.data<float>());
    const StepInfo info{++t_, case_.seed, lr, grad_scale};
    const SliceIn grad{grad_, &param_, 0};
    const optim::Needs needs = method_->needs(param_, t_);
    const auto wanted = static_cast<std::size_t>(needs.workspace_bytes);
    optim::Workspace workspace{std::span(workspace_.bytes(), wanted)};
    totals_.clear();
    for (int phase = 0; phase < needs.stat_phases; ++phase) {
      std::vector<double> partial(static_cast<std::size_t>(needs.stats));
      method_->stats(grad, views_, totals_, partial, phase, workspace, info, compute_stream());
      totals_.insert(totals_.end(), partial.begin(), partial.end());
    }
    method_->update(slice_, grad, views_, totals_, workspace, info, compute_stream());
  }

  const Slice& slice() const { return slice_; }
  const StateLayout& layout() const { return layout_; }
  /// Where the next step starts.
  twins::Vec weights() const {
    std::vector<float> now(size());
    for (std::int64_t at = 0; at < numel(); at += optim::kTile) {
      optim::load_weights(slice_, at, std::min(optim::kTile, numel() - at), now.data() + at);
    }
    return {now.begin(), now.end()};
  }
  Tensor field(std::string_view name) const {
    for (std::size_t i = 0; i < layout_.size(); ++i) {
      if (layout_[i].name == name) {
        return fields_[i];
      }
    }
    return {};
  }
  /// Values of a float field; codes of a byte field.
  twins::Vec values(std::string_view name) const { return wide(field(name)); }
  twins::Bytes codes(std::string_view name) const { return raw(field(name)); }
  static twins::Vec wide(const Tensor& from) {
    twins::Vec out(static_cast<std::size_t>(from.numel()));
    for (std::size_t i = 0; i < out.size(); ++i) {
      switch (from.dtype()) {
        case DType::f32:
          out[i] = static_cast<double>(from.data<float>()[i]);
          break;
        case DType::bf16:
          out[i] = static_cast<double>(to_float(from.data<bf16>()[i]));
          break;
        case DType::i16:
          out[i] = from.data<std::int16_t>()[i];
          break;
        default:
          out[i] = from.data<std::uint8_t>()[i];
      }
    }
    return out;
  }
  /// Every byte of weights and state, in a fixed order.
  twins::Bytes everything() const {
    twins::Bytes all;
    for (const Tensor& part :
         {slice_.master, slice_.working, slice_.residue, slice_.codes, slice_.affine}) {
      append(all, part);
    }
    for (const Tensor& part : fields_) {
      append(all, part);
    }
    return all;
  }

 private:
  void make_weights() {
    const auto make = [&](DType dtype) { return Tensor::zeros(dtype, {numel()}); };
    slice_.param = &param_;
    slice_.format = case_.format;
    if (case_.format == WeightFormat::f32 || case_.format == WeightFormat::bf16_master) {
      slice_.master = make(DType::f32);
    }
    if (case_.format != WeightFormat::f32) {
      slice_.working = make(DType::bf16);
    }
    if (case_.format == WeightFormat::bf16_kahan) {
      slice_.residue = make(DType::bf16);
    }
    if (case_.format == WeightFormat::int8) {
      slice_.codes = make(DType::u8);
      slice_.affine = Tensor::zeros(DType::f32, {(numel() + kWeightGroup - 1) / kWeightGroup * 2});
    }
  }
  static twins::Bytes raw(const Tensor& from) {
    twins::Bytes out;
    append(out, from);
    return out;
  }
  static void append(twins::Bytes& all, const Tensor& part) {
    const auto* const bytes = reinterpret_cast<const std::uint8_t*>(part.bytes());
    all.insert(all.end(), bytes, bytes + part.size_bytes());
  }
  TensorCase case_;
  std::unique_ptr<optim::Optimizer> method_;
  ParamInfo param_;
  Slice slice_;
  Tensor grad_, workspace_;
  StateLayout layout_;
  std::vector<Tensor> fields_;
  StateViews views_;
  std::vector<double> totals_;
  std::int64_t t_ = 0;
};

/// The 16 random bits of each element in a step: eight elements to a draw of four words, the low
/// half of a word first.
inline std::vector<std::uint32_t> rounding_bits(
    std::uint64_t seed, RandomUse use, std::int64_t step, TensorId tensor, std::size_t numel) {
  const RandomKey key{
      seed, use, static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(tensor)};
  std::vector<std::uint32_t> bits(numel);
  for (std::size_t i = 0; i < numel; ++i) {
    const std::uint32_t word = key.words(i / 8)[i % 8 / 2];
    bits[i] = i % 2 == 0 ? word & 0xFFFFu : word >> 16;
  }
  return bits;
}

}  // namespace strata::tests
