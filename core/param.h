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
  int output_axis = 0;  // of a matrix: the axis of output features; 1 where it is kept (in, out)
};

/// How a parameter starts: normal(mean, std) or uniform in mean +- bound, from (seed, id, element);
/// a constant where both are 0.
struct Init {
  float mean = 0.f;
  float std = 0.f;
  float bound = 0.f;  // not beside std
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
  std::int64_t last_unit = -1;  // of a last block that is shorter; -1: per_unit as well
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

/// How the working weight and its precise copy are kept.
enum class WeightFormat : std::uint8_t {
  f32,              // one tensor serves as both
  bf16_master,      // bf16 beside an f32 master in the state
  bf16_stochastic,  // bf16 alone, rounded stochastically
  bf16_kahan,       // bf16 beside what rounding cut off so far, in bf16 in the state
  int8,             // codes of groups of 256 in the state, rounded stochastically; the working
                    // copy, f32 or bf16, is made from them
};
std::string_view to_string(WeightFormat format);
/// Elements of a group in WeightFormat::int8.
inline constexpr std::int64_t kWeightGroup = 256;

/// The range of a tensor that this rank updates, wherever the plan put it.
struct Slice {
  const ParamInfo* param = nullptr;
  std::int64_t begin = 0;  // first element of the range in the whole tensor
  WeightFormat format = WeightFormat::f32;
  Tensor master;   // (numel) f32 (f64 in tests); in formats f32 and bf16_master
  Tensor working;  // (numel) bf16, or f32 beside int8 codes; empty in WeightFormat::f32
  Tensor residue;  // (numel) bf16, in bf16_kahan
  Tensor codes;    // (numel) u8, in int8
  Tensor affine;   // (groups, 2) f32, scale and zero point, in int8
  std::int64_t numel() const { return master ? master.numel() : working.numel(); }
  bool in_double() const { return master && master.dtype() == DType::f64; }
};
/// The gradient of the same range: reduced, divided by the step's token count, not yet clipped.
struct SliceIn {
  Tensor grad;  // (numel) f32
  const ParamInfo* param = nullptr;
  std::int64_t begin = 0;  // first element of the range in the whole tensor
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

/// Whether a parameter trains in a period of a run, where parameters take turns.
enum class Turn : std::uint8_t {
  always,   // in every period; its state lasts
  taken,    // in this one; its state begins and ends with it
  waiting,  // its weights move without state
  frozen,   // not at all: no gradient, no state, no update
};

/// What is known of the step that an update belongs to.
struct StepInfo {
  std::int64_t step = 0;  // from 1
  std::uint64_t seed = 0;
  double lr = 0.0;
  float grad_scale = 1.f;      // clip coefficient
  Turn turn = Turn::always;    // of the parameter
  std::int64_t turn_step = 0;  // steps of its turn so far, this one included
  /// The age of the parameter's state: t of bias corrections.
  std::int64_t t() const { return turn == Turn::taken ? turn_step : step; }
};

}  // namespace strata
