#include "launch/report.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "core/error.h"
#include "core/io/file.h"
#include "offload/planner.h"

namespace strata::launch {
namespace {

using Clock = std::chrono::steady_clock;

/// A killed run may have written metrics of steps that the resumed run repeats, and half a line.
void drop_repeated(const std::filesystem::path& file, std::int64_t resumed_step) {
  std::ifstream in(file);
  if (!in) {
    return;
  }
  std::string kept, line;
  while (std::getline(in, line)) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    if (object.is_object() && object.value("step", std::int64_t{0}) <= resumed_step) {
      kept += line + "\n";
    }
  }
  io::replace_file(file, kept);
}

nlohmann::json number(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

std::string bar(double done) {
  constexpr int kWidth = 20;
  const int filled = static_cast<int>(done * kWidth);
  std::string text;
  for (int i = 0; i < kWidth; ++i) {
    text += i < filled ? "#" : ".";
  }
  return text;
}

}  // namespace

std::string duration_text(double seconds) {
  if (seconds < 60.0) {
    return fmt::format("{:.1f} s", seconds);
  }
  const auto minutes = static_cast<std::int64_t>(seconds / 60.0);
  return minutes < 60 ? fmt::format("{}m {:02}s", minutes, static_cast<int>(seconds) % 60)
                      : fmt::format("{}h {:02}m", minutes / 60, minutes % 60);
}

Report::Report(const std::filesystem::path& run_dir, std::int64_t resumed_step)
    : metrics_(nullptr, &std::fclose), terminal_(isatty(STDERR_FILENO) == 1) {
  const auto file = run_dir / "metrics.jsonl";
  drop_repeated(file, resumed_step);
  metrics_.reset(std::fopen(file.c_str(), "a"));
  if (!metrics_) {
    throw Error(Errc::io, "metrics: cannot open " + file.string() + " for appending");
  }
}

Report::Report() : metrics_(nullptr, &std::fclose), terminal_(false) {}

Report::~Report() {
  finish_live_line();
}

void Report::finish_live_line() {
  if (live_) {
    std::fputc('\n', stderr);
    live_ = false;
  }
}

void Report::note(const std::string& text) {
  if (!metrics_) {
    return;
  }
  finish_live_line();
  std::fprintf(stderr, "%s\n", text.c_str());
}

/// A full disk costs lines of metrics, not the run: its checkpoints decide whether it can go on.
void Report::write_metrics(const std::string& line) {
  std::fprintf(metrics_.get(), "%s\n", line.c_str());
  if (std::fflush(metrics_.get()) != 0 && !metrics_lost_) {
    note("strata: warning: metrics.jsonl cannot be written; lines of it will be missing");
    metrics_lost_ = true;
  }
}

void Report::step(const StepReport& r) {
  if (!metrics_) {
    return;
  }
  const nlohmann::json object{{"step", r.step},
                              {"loss", number(r.loss)},
                              {"grad_norm", number(r.grad_norm)},
                              {"lr", r.lr},
                              {"clipped", r.clipped},
                              {"skipped", r.skipped},
                              {"tokens", r.tokens_seen},
                              {"tokens_per_second", static_cast<double>(r.tokens) / r.seconds},
                              {"memory_bytes", r.memory_bytes},
                              {"seconds", r.seconds}};
  write_metrics(object.dump());

  seconds_per_step_ =
      seconds_per_step_ == 0 ? r.seconds : 0.9 * seconds_per_step_ + 0.1 * r.seconds;
  const auto now = Clock::now();
  const bool last = r.step == r.steps;
  if (!terminal_ && r.step > 10 && !last && now - last_line_ < std::chrono::seconds(1)) {
    return;
  }
  last_line_ = now;
  std::string line = fmt::format(
      "step {:>{}}/{}  loss {:.4f}  norm {:.3f}{}  lr {:.3g}  {:.0f} tok/s  {}  left {}",
      r.step,
      std::to_string(r.steps).size(),
      r.steps,
      r.loss,
      r.grad_norm,
      r.skipped   ? " skipped"
      : r.clipped ? " clipped"
                  : "",
      r.lr,
      static_cast<double>(r.tokens) / r.seconds,
      offload::bytes_text(r.memory_bytes),
      duration_text(seconds_per_step_ * static_cast<double>(r.steps - r.step)));
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  const double done = static_cast<double>(r.step) / static_cast<double>(r.steps);
  std::fprintf(stderr, "\r\033[K[%s] %s", bar(done).c_str(), line.c_str());
  std::fflush(stderr);
  live_ = true;
}

void Report::evaluation(std::int64_t step, double loss, std::int64_t tokens, double seconds) {
  if (!metrics_) {
    return;
  }
  const nlohmann::json object{{"step", step},
                              {"validation_loss", number(loss)},
                              {"validation_tokens", tokens},
                              {"seconds", seconds}};
  write_metrics(object.dump());
  note(fmt::format("step {}  validation loss {:.4f}  ({} tokens, {})",
                   step,
                   loss,
                   tokens,
                   duration_text(seconds)));
}

ResidentSet resident_set() {
  ResidentSet set;
  std::ifstream in("/proc/self/status");
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string key;
    std::int64_t kib = 0;
    words >> key >> kib;
    if (key == "VmRSS:") {
      set.now_bytes = kib * 1024;
    } else if (key == "VmHWM:") {
      set.peak_bytes = kib * 1024;
    }
  }
  return set;
}

}  // namespace strata::launch
