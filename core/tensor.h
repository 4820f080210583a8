#pragma once
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/bf16.h"

namespace strata {

enum class DType : std::uint8_t { f32, f64, bf16, i8, u8, i16, i32, i64 };
std::int64_t size_bytes(DType dtype);
std::string_view to_string(DType dtype);

enum class DeviceKind : std::uint8_t { cpu, cuda };
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};
std::string to_string(Device device);

/// Extents of a tensor, at most kMaxRank of them, stored inline so that views never allocate.
class Shape {
 public:
  static constexpr std::size_t kMaxRank = 6;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);
  std::size_t rank() const { return rank_; }
  std::int64_t operator[](std::size_t i) const { return extents_[i]; }
  std::int64_t& operator[](std::size_t i) { return extents_[i]; }
  std::int64_t back() const { return extents_[rank_ - 1]; }
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }
  /// Product of the extents; 1 for rank 0.
  std::int64_t numel() const;
  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  std::uint8_t rank_ = 0;
};
/// "(4, 256, 768)".
std::string to_string(const Shape& shape);

template <class T>
constexpr DType dtype_of();

/// A typed, strided view of bytes, with an owner only where somebody must keep them alive. No
/// mathematics. An empty Tensor (no data) is legal and means "absent".
class Tensor {
 public:
  Tensor() = default;
  /// Row-major view of bytes that someone else owns (an arena, a pack).
  Tensor(std::byte* data, DType dtype, Shape shape, Device device = {});
  /// Owns zeroed memory of its own: set-up, tests, host-side tables. Never in a step.
  static Tensor zeros(DType dtype, Shape shape);

  explicit operator bool() const { return data_ != nullptr; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  // in elements
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  bool on(DeviceKind kind) const { return device_.kind == kind; }
  std::int64_t numel() const { return data_ == nullptr ? 0 : shape_.numel(); }
  std::int64_t size_bytes() const { return numel() * strata::size_bytes(dtype_); }
  bool is_contiguous() const;

  /// Throws internal when T is not the tensor's dtype.
  template <class T>
  T* data() const {
    check_dtype(dtype_of<T>());
    return reinterpret_cast<T*>(data_);
  }
  std::byte* bytes() const { return data_; }

  /// Same bytes, other extents; the tensor must be contiguous and the element counts equal.
  Tensor reshape(Shape shape) const;
  /// Rows [begin, end) of the first axis.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// Columns [begin, end) of the last axis: the same bytes, no longer contiguous.
  Tensor columns(std::int64_t begin, std::int64_t end) const;

 private:
  void check_dtype(DType asked) const;
  std::byte* data_ = nullptr;
  std::shared_ptr<std::byte> owner_;
  Shape shape_, strides_;
  DType dtype_ = DType::f32;
  Device device_;
};

template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<std::int8_t>() {
  return DType::i8;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::u8;
}
template <>
constexpr DType dtype_of<std::int16_t>() {
  return DType::i16;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::i64;
}

}  // namespace strata
