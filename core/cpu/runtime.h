#pragma once
#include <array>
#include <memory>

#include "core/runtime.h"

namespace strata::cpu {

/// The compute lane is the calling thread; every other lane is one thread, started on first use,
/// that sleeps while it has nothing to do.
class CpuRuntime final : public Runtime {
 public:
  CpuRuntime();
  ~CpuRuntime() override;
  Stream& stream(Lane lane) override;
  std::shared_ptr<Event> record(Stream& stream) override;
  void wait(Stream& waiter, const std::shared_ptr<Event>& event) override;
  void wait_host(const std::shared_ptr<Event>& event) override;
  bool done(const std::shared_ptr<Event>& event) const override;
  void copy_async(std::byte* to,
                  const std::byte* from,
                  std::int64_t size_bytes,
                  Stream& stream) override;
  void fill_async(std::byte* to, std::byte value, std::int64_t size_bytes, Stream& stream) override;
  MemoryInfo memory_info() const override;

 private:
  static constexpr std::size_t kLanes = 5;
  std::array<std::unique_ptr<Stream>, kLanes> streams_;
};

}  // namespace strata::cpu
