#pragma once
#include <utility>

namespace strata {

/// Move-only owner of a C handle. Traits: `type`, `null()`, `destroy(type) noexcept`.
template <class Traits>
class [[nodiscard]] Handle {
 public:
  using type = typename Traits::type;
  Handle() noexcept : value_(Traits::null()) {}
  explicit Handle(type value) noexcept : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, Traits::null())) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset(std::exchange(other.value_, Traits::null()));
    }
    return *this;
  }
  ~Handle() { reset(); }

  type get() const noexcept { return value_; }
  explicit operator bool() const noexcept { return value_ != Traits::null(); }
  type release() noexcept { return std::exchange(value_, Traits::null()); }
  void reset(type value = Traits::null()) noexcept {
    if (value_ != Traits::null()) {
      Traits::destroy(value_);
    }
    value_ = value;
  }

 private:
  type value_;
};

}  // namespace strata
