#include "core/pack.h"

#include "core/error.h"

namespace strata {

std::string_view to_string(PackClass cls) {
  constexpr std::string_view names[] = {"weights",
                                        "grads",
                                        "borrowed_grads",
                                        "state",
                                        "weights_next",
                                        "state_next",
                                        "boundary",
                                        "boundary_grad",
                                        "saved",
                                        "workspace",
                                        "turn_state",
                                        "turn_state_next"};
  return names[static_cast<std::size_t>(cls)];
}

std::string to_string(const PackKey& key) {
  std::string text(to_string(key.cls));
  if (key.block >= 0) {
    text += "[" + std::to_string(key.block);
    text += key.micro_batch >= 0 ? ", mb " + std::to_string(key.micro_batch) + "]" : "]";
  }
  return text;
}

std::string to_string(const Replica& replica) {
  const std::string key = to_string(replica.key);
  return replica.tier == Tier() ? key : key + " in " + to_string(replica.tier);
}

PackLayout pack_layout(std::span<const std::int64_t> tensor_bytes) {
  constexpr std::int64_t kTensorAlign = 64, kPackAlign = 4096;
  PackLayout layout;
  for (const std::int64_t bytes : tensor_bytes) {
    layout.offset.push_back(layout.size_bytes);
    layout.size_bytes += (bytes + kTensorAlign - 1) / kTensorAlign * kTensorAlign;
  }
  layout.size_bytes = (layout.size_bytes + kPackAlign - 1) / kPackAlign * kPackAlign;
  return layout;
}

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    release();
    store_ = std::exchange(other.store_, nullptr);
    replica_ = other.replica_;
    access_ = other.access_;
    bytes_ = other.bytes_;
  }
  return *this;
}

void Lease::release() noexcept {
  if (store_ != nullptr) {
    store_->release(replica_, access_);
    store_ = nullptr;
  }
}

}  // namespace strata
