#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "core/error.h"
#include "launch/commands.h"
#include "launch/ranks.h"

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of its write
  try {
    return strata::launch::run(argc, argv);
  } catch (const strata::Error& error) {
    if (strata::launch::speaks_first()) {
      std::fprintf(stderr, "strata: %s\n", error.what());
    }
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "strata: internal: the system refused memory outside the planned arenas\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "strata: internal: %s\n", error.what());
    return 1;
  }
}
