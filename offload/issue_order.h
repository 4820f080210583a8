#pragma once
#include <span>
#include <vector>

#include "core/program.h"
#include "offload/simulator.h"

namespace strata::offload {

/// What each instruction of a program waits for: indices of earlier ones that must be done.
class Waits {
 public:
  void add(std::span<const int> before) {
    before_.insert(before_.end(), before.begin(), before.end());
    ends_.push_back(before_.size());
  }
  std::span<const int> of(std::size_t index) const {
    const std::size_t begin = index == 0 ? 0 : ends_[index - 1];
    return std::span(before_).subspan(begin, ends_[index] - begin);
  }

 private:
  std::vector<int> before_;
  std::vector<std::size_t> ends_;
};

/// Which instructions run as decisions come out.
std::vector<bool> running(const Program& program, Outcomes outcomes);
/// Of a machine whose host cores are the device: everything in the order of the program.
Waits in_order(const Program& program, const std::vector<bool>& runs);
/// Of one whose host cores work beside the device.
Waits beside_device(const Program& program, const std::vector<bool>& runs);

}  // namespace strata::offload
