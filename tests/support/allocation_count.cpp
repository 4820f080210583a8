// Replaces malloc and operator new in the executable that links it. Both, since the caller of
// malloc would otherwise be operator new, whoever called that. What they return is glibc's, so free
// and operator delete stay as they are.
#include "tests/support/allocation_count.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <new>
#include <string_view>

#include <link.h>

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* old, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
}

namespace strata::tests {

/// One call of ours; a place for a breakpoint.
[[gnu::noinline]] void count_ours();

namespace {

struct CodeRange {
  std::uintptr_t begin = 0, end = 0;
};

// What malloc touches must exist before the first object of the program: constant initialisers
// only.
constinit std::atomic<bool> counting{false};
constinit std::atomic<std::int64_t> ours{0}, ours_largest_bytes{0};
constinit std::atomic<std::int64_t> library{0}, library_bytes{0}, library_largest_bytes{0};
constinit std::array<CodeRange, 16> library_code{};

int note_library(dl_phdr_info* object, std::size_t, void* next) {
  const std::string_view name = object->dlpi_name;
  if (name.find("/libdnnl.so") == name.npos && name.find("/libgomp.so") == name.npos) {
    return 0;
  }
  std::size_t& at = *static_cast<std::size_t*>(next);
  for (int i = 0; i < object->dlpi_phnum && at < library_code.size(); ++i) {
    const auto& segment = object->dlpi_phdr[i];
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0) {
      const std::uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
      library_code[at++] = {begin, begin + segment.p_memsz};
    }
  }
  return 0;
}

bool is_library(const void* caller) {
  const auto at = reinterpret_cast<std::uintptr_t>(caller);
  for (const CodeRange& code : library_code) {
    if (at >= code.begin && at < code.end) {
      return true;
    }
  }
  return false;
}

void raise_to(std::atomic<std::int64_t>& largest, std::int64_t value) {
  std::int64_t seen = largest.load(std::memory_order_relaxed);
  while (seen < value && !largest.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

void count(std::size_t size_bytes, const void* caller) {
  if (!counting.load(std::memory_order_relaxed)) {
    return;
  }
  if (is_library(caller)) {
    library.fetch_add(1, std::memory_order_relaxed);
    library_bytes.fetch_add(static_cast<std::int64_t>(size_bytes), std::memory_order_relaxed);
    raise_to(library_largest_bytes, static_cast<std::int64_t>(size_bytes));
  } else {
    raise_to(ours_largest_bytes, static_cast<std::int64_t>(size_bytes));
    count_ours();
  }
}

void* allocate(std::size_t size_bytes, std::size_t alignment) {
  const std::size_t size = size_bytes == 0 ? 1 : size_bytes;
  return alignment <= alignof(std::max_align_t) ? __libc_malloc(size)
                                                : __libc_memalign(alignment, size);
}

void* allocate_or_throw(std::size_t size_bytes, std::size_t alignment) {
  void* const memory = allocate(size_bytes, alignment);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}

}  // namespace

void count_ours() {
  ours.fetch_add(1, std::memory_order_relaxed);
}

bool counts_allocations() {
  return true;
}

void start_counting_allocations() {
  std::size_t next = 0;
  dl_iterate_phdr(note_library, &next);
  ours = ours_largest_bytes = library = library_bytes = library_largest_bytes = 0;
  counting = true;
}

AllocationCount stop_counting_allocations() {
  counting = false;
  return {.ours = ours,
          .ours_largest_bytes = ours_largest_bytes,
          .library = library,
          .library_bytes = library_bytes,
          .library_largest_bytes = library_largest_bytes};
}

}  // namespace strata::tests

using strata::tests::allocate;
using strata::tests::allocate_or_throw;
using strata::tests::count;

// The caller is known in the replaced function itself, hence a line of its own in each.
extern "C" {

void* malloc(std::size_t size) {
  count(size, __builtin_return_address(0));
  return __libc_malloc(size);
}
void* calloc(std::size_t n, std::size_t size) {
  count(n * size, __builtin_return_address(0));
  return __libc_calloc(n, size);
}
void* realloc(void* old, std::size_t size) {
  count(size, __builtin_return_address(0));
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) {
  count(size, __builtin_return_address(0));
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  count(size, __builtin_return_address(0));
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** to, std::size_t alignment, std::size_t size) {
  count(size, __builtin_return_address(0));
  void* const memory = __libc_memalign(alignment, size);
  if (memory == nullptr) {
    return ENOMEM;
  }
  *to = memory;
  return 0;
}

}  // extern "C"

void* operator new(std::size_t size) {
  count(size, __builtin_return_address(0));
  return allocate_or_throw(size, 0);
}
void* operator new[](std::size_t size) {
  count(size, __builtin_return_address(0));
  return allocate_or_throw(size, 0);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  count(size, __builtin_return_address(0));
  return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  count(size, __builtin_return_address(0));
  return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  count(size, __builtin_return_address(0));
  return allocate(size, 0);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  count(size, __builtin_return_address(0));
  return allocate(size, 0);
}
void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  count(size, __builtin_return_address(0));
  return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  count(size, __builtin_return_address(0));
  return allocate(size, static_cast<std::size_t>(alignment));
}
