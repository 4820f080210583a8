#include "launch/machine.h"

#include <algorithm>
#include <fstream>

#include <sched.h>

namespace strata::launch {

int cores_allowed() {
  cpu_set_t mask;
  return sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : 1;
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      return line.substr(std::min(line.size(), line.find(':') + 2));
    }
  }
  return "unknown";
}

std::string huge_pages() {
  std::ifstream in("/sys/kernel/mm/transparent_hugepage/enabled");  // "always [madvise] never"
  for (std::string word; in >> word;) {
    if (word.starts_with('[') && word.ends_with(']')) {
      return word.substr(1, word.size() - 2);
    }
  }
  return "unknown";
}

}  // namespace strata::launch
