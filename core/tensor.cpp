#include "core/tensor.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/error.h"

namespace strata {

std::int64_t size_bytes(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::i16:
      return 2;
    case DType::i8:
    case DType::u8:
      return 1;
  }
  return 0;
}

std::string_view to_string(DType dtype) {
  constexpr std::string_view names[] = {"f32", "f64", "bf16", "i8", "u8", "i16", "i32", "i64"};
  return names[static_cast<std::size_t>(dtype)];
}

std::string to_string(Device device) {
  return device.kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) {
  STRATA_ASSERT(extents.size() <= kMaxRank);
  rank_ = static_cast<std::uint8_t>(extents.size());
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t e : *this) {
    n *= e;
  }
  return n;
}

bool operator==(const Shape& a, const Shape& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.rank(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + ")";
}

namespace {
Shape row_major_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (std::size_t i = shape.rank(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}
}  // namespace

Tensor::Tensor(std::byte* data, DType dtype, Shape shape, Device device)
    : data_(data),
      shape_(shape),
      strides_(row_major_strides(shape)),
      dtype_(dtype),
      device_(device) {}

Tensor Tensor::zeros(DType dtype, Shape shape) {
  constexpr std::align_val_t kAlign{64};
  const std::int64_t bytes = std::max<std::int64_t>(shape.numel() * strata::size_bytes(dtype), 1);
  auto* data = static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes), kAlign));
  std::memset(data, 0, static_cast<std::size_t>(bytes));
  Tensor t(data, dtype, shape);
  t.owner_ = std::shared_ptr<std::byte>(data, [](std::byte* p) { ::operator delete(p, kAlign); });
  return t;
}

bool Tensor::is_contiguous() const {
  return strides_ == row_major_strides(shape_);
}

Tensor Tensor::reshape(Shape shape) const {
  STRATA_ASSERT(is_contiguous() && shape.numel() == shape_.numel());
  Tensor t = *this;
  t.shape_ = shape;
  t.strides_ = row_major_strides(shape);
  return t;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  STRATA_ASSERT(shape_.rank() >= 1 && 0 <= begin && begin <= end && end <= shape_[0]);
  Tensor t = *this;
  t.data_ += begin * strides_[0] * strata::size_bytes(dtype_);
  t.shape_[0] = end - begin;
  return t;
}

Tensor Tensor::columns(std::int64_t begin, std::int64_t end) const {
  STRATA_ASSERT(shape_.rank() >= 1 && 0 <= begin && begin <= end && end <= shape_.back());
  const std::size_t last = shape_.rank() - 1;
  Tensor t = *this;
  t.data_ += begin * strides_[last] * strata::size_bytes(dtype_);
  t.shape_[last] = end - begin;
  return t;
}

void Tensor::check_dtype(DType asked) const {
  if (asked != dtype_) {
    throw Error(Errc::internal,
                "tensor: " + std::string(to_string(asked)) + " asked of a " +
                    std::string(to_string(dtype_)) + " tensor " + to_string(shape_));
  }
}

}  // namespace strata
