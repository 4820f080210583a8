#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/bf16.h"
#include "core/error.h"
#include "core/tensor.h"

namespace strata {

using TensorId = std::int64_t;
/// What a parameter is to an optimizer: 2-D weight of attention or MLP, embedding table, output
/// projection, or norm/bias/scalar. A tied embedding and head counts as embed.
enum class Role : std::uint8_t { matrix, embed, head, vector };
std::string_view to_string(Role role);

/// One logical parameter, whole, never a shard. `id` keys randomness and never changes for a model.
struct ParamInfo {
  TensorId id = 0;
  std::string name;  // Hugging Face name
  Role role = Role::matrix;
  Shape shape;
};

/// How a parameter starts: normal(mean, std) from (seed, id, element), or a constant (std = 0).
struct Init {
  float mean = 0.f;
  float std = 0.f;
};
struct ParamSpec {
  ParamInfo info;
  Init init;
};

/// Where a parameter, or a state field beside it, may be cut, measured from the tensor's first
/// element.
struct Granularity {
  enum class Unit : std::uint8_t { element, block, row, column, whole };
  Unit unit = Unit::element;
  std::int64_t block = 1;
  static Granularity element() { return {}; }
  static Granularity blocks_of(std::int64_t n) { return {Unit::block, n}; }
  static Granularity row() { return {Unit::row, 1}; }
  static Granularity column() { return {Unit::column, 1}; }
  static Granularity whole() { return {Unit::whole, 1}; }
  friend bool operator==(const Granularity&, const Granularity&) = default;
};

/// One field of optimizer state: `per_unit` values of `dtype` for each unit of `along`. A count
/// alone could not be cut again for another world size.
struct StateField {
  std::string name;
  DType dtype = DType::f32;
  Granularity along;
  std::int64_t per_unit = 1;
};
using StateLayout = std::vector<StateField>;
/// Values that a field holds for elements [begin, end) of a parameter of this shape.
std::int64_t field_numel(const StateField& field,
                         const Shape& shape,
                         std::int64_t begin,
                         std::int64_t end);

/// A flat range [begin, end) of a parameter and the rank that updates it.
struct ShardSpec {
  TensorId tensor = 0;
  std::int64_t begin = 0, end = 0;
  int owner = 0;
};

/// How the working weight and its precise copy are kept. f32: one tensor serves as both.
enum class WeightFormat : std::uint8_t { f32, bf16_master };

/// Writes master and working weight in one pass, so that a rule never knows the format.
template <class T>
struct WeightView {
  T* master = nullptr;      // the precise weight: f32 (double in tests)
  bf16* working = nullptr;  // absent in WeightFormat::f32
  STRATA_HD T load(std::int64_t i) const { return master[i]; }
  STRATA_HD void store(std::int64_t i, T value) const {
    master[i] = value;
    if (working != nullptr) {
      working[i] = to_bf16(static_cast<float>(value));
    }
  }
};

/// The range of a tensor that this rank updates, wherever the plan put it.
struct Slice {
  const ParamInfo* param = nullptr;
  std::int64_t begin = 0;  // first element of the range in the whole tensor
  Tensor master;           // (numel) f32
  Tensor working;          // (numel) bf16; empty in WeightFormat::f32
  std::int64_t numel() const { return master.numel(); }
  template <class T>
  WeightView<T> view() const {
    return {master.data<T>(), working ? working.data<bf16>() : nullptr};
  }
  WeightView<float> f32() const { return view<float>(); }
};
/// The gradient of the same range: reduced, divided by the step's token count, not yet clipped.
struct SliceIn {
  Tensor grad;  // (numel) f32
  const float* f32() const { return grad.data<float>(); }
};

/// State fields of one slice by name.
class StateViews {
 public:
  void set(std::string_view field, Tensor view) { fields_.push_back({field, view}); }
  /// Forgets the views and keeps the memory, so that one object serves all slices of a run.
  void clear() { fields_.clear(); }
  Tensor& operator[](std::string_view field);

 private:
  struct Named {
    std::string_view name;  // of the StateField, which outlives the views
    Tensor view;
  };
  std::vector<Named> fields_;
};

/// What is known of the step that an update belongs to.
struct StepInfo {
  std::int64_t step = 0;  // from 1
  std::uint64_t seed = 0;
  double lr = 0.0;
  float grad_scale = 1.f;  // clip coefficient
};

}  // namespace strata
