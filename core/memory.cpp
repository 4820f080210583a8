#include "core/memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

#include "core/error.h"

namespace strata {

std::string to_string(Tier tier) {
  constexpr const char* names[] = {"device", "pinned", "host", "far", "nvme", "peer"};
  const std::string name = names[static_cast<std::size_t>(tier.kind)];
  return tier.index == 0 ? name : name + std::to_string(tier.index);
}

void Ledger::add(Tier tier, std::string_view label, std::int64_t size_bytes) {
  const std::scoped_lock lock(mutex_);
  TierBytes& of_tier = tiers_[tier];
  auto of_label = of_tier.labels.find(label);
  if (of_label == of_tier.labels.end()) {
    of_label = of_tier.labels.emplace(std::string(label), Bytes{}).first;
  }
  for (Bytes* bytes : {&of_tier.total, &of_label->second}) {
    bytes->current += size_bytes;
    bytes->peak = std::max(bytes->peak, bytes->current);
  }
}

void Ledger::subtract(Tier tier, std::string_view label, std::int64_t size_bytes) {
  const std::scoped_lock lock(mutex_);
  TierBytes& of_tier = tiers_[tier];
  const auto of_label = of_tier.labels.find(label);
  STRATA_ASSERT(of_label != of_tier.labels.end() && of_label->second.current >= size_bytes);
  of_tier.total.current -= size_bytes;
  of_label->second.current -= size_bytes;
}

std::int64_t Ledger::current(Tier tier) const {
  const std::scoped_lock lock(mutex_);
  const auto at = tiers_.find(tier);
  return at == tiers_.end() ? 0 : at->second.total.current;
}

std::int64_t Ledger::peak(Tier tier) const {
  const std::scoped_lock lock(mutex_);
  const auto at = tiers_.find(tier);
  return at == tiers_.end() ? 0 : at->second.total.peak;
}

std::map<std::string, Ledger::Bytes, std::less<>> Ledger::labels(Tier tier) const {
  const std::scoped_lock lock(mutex_);
  const auto at = tiers_.find(tier);
  return at == tiers_.end() ? decltype(TierBytes::labels){} : at->second.labels;
}

void MappingTraits::destroy(type mapping) noexcept {
  ::munmap(mapping.data, mapping.size);
}

Arena::Arena(Tier tier, std::int64_t size_bytes, std::int64_t budget_bytes) : tier_(tier) {
  STRATA_ASSERT(size_bytes >= 0);
  if (size_bytes > budget_bytes) {
    throw Error(Errc::infeasible,
                "memory: tier " + to_string(tier) + " needs " + std::to_string(size_bytes) +
                    " bytes, its budget is " + std::to_string(budget_bytes) + "; raise memory." +
                    to_string(tier) + " or shrink the model or micro-batch");
  }
  if (size_bytes == 0) {
    return;
  }
  const auto page = static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE));
  const auto size = static_cast<std::size_t>((size_bytes + page - 1) / page * page);
  void* data = ::mmap(
      nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(Errc::io,
                "memory: the system refused to map " + std::to_string(size) + " bytes for tier " +
                    to_string(tier) + ": " + std::strerror(errno) +
                    "; check ulimit -v and vm.max_map_count");
  }
  mapping_.reset({static_cast<std::byte*>(data), size});
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  if (size >= kHugePage) {
    ::madvise(data, size, MADV_HUGEPAGE);  // a wish: kernels without huge pages refuse it
  }
}

std::span<std::byte> Arena::range(std::int64_t offset, std::int64_t size_bytes) const {
  STRATA_ASSERT(offset >= 0 && size_bytes >= 0 && offset <= this->size_bytes() - size_bytes);
  return {mapping_.get().data + offset, static_cast<std::size_t>(size_bytes)};
}

}  // namespace strata
