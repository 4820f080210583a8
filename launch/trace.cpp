#include "launch/trace.h"

#include <algorithm>
#include <array>
#include <exception>
#include <iterator>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/io/file.h"
#include "core/offsets.h"

namespace strata::launch {
namespace {

constexpr Tier kDevice{TierKind::device, 0};

std::string_view lane_name(Lane lane) {
  constexpr std::array<std::string_view, 5> kNames{
      "compute", "copy in", "copy out", "update", "communication"};
  return kNames.at(static_cast<std::size_t>(lane));
}

/// Events as text, one a line, times in microseconds since `origin`. Built by hand: as a tree of
/// JSON objects a long trace would take gigabytes.
class Events {
 public:
  explicit Events(std::int64_t origin_ns) : origin_ns_(origin_ns) {}

  void name(std::string_view what, Lane lane, std::string_view name) {
    add(R"({{"ph":"M","name":"{}","pid":0,"tid":{},"args":{{"name":"{}"}}}})",
        what,
        static_cast<int>(lane),
        name);
  }
  void work(std::string_view name,
            std::string_view category,
            Lane lane,
            Interval ns,
            const nlohmann::json& args) {
    add(R"({{"ph":"X","name":"{}","cat":"{}","ts":{},"dur":{},"pid":0,"tid":{},"args":{}}})",
        name,
        category,
        microseconds(ns.begin - origin_ns_),
        microseconds(ns.end - ns.begin),
        static_cast<int>(lane),
        args.dump());
  }
  void counter(std::string_view name, std::int64_t ns, const nlohmann::json& series) {
    add(R"({{"ph":"C","name":"{}","ts":{},"pid":0,"args":{}}})",
        name,
        microseconds(ns - origin_ns_),
        series.dump());
  }
  const std::string& text() const { return text_; }

 private:
  static std::string microseconds(std::int64_t ns) {
    return fmt::format("{}.{:03}", ns / 1000, ns % 1000);
  }
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    text_ += text_.empty() ? "" : ",\n";
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }

  std::int64_t origin_ns_;
  std::string text_;
};

void add_span(Events& events, const Span& span) {
  auto args = nlohmann::json::object();
  if (span.block >= 0) {
    args["block"] = span.block;
  }
  if (span.micro_batch >= 0) {
    args["micro_batch"] = span.micro_batch;
  }
  if (!span.direction.empty()) {
    args["direction"] = span.direction;
  }
  const bool op = span.kind == Span::Kind::op;
  events.work(span.name, op ? "op" : "instruction", span.lane, {span.begin_ns, span.end_ns}, args);
}

}  // namespace

std::size_t trace_spans(const StepRange& steps, const Program& program) {
  constexpr std::size_t kMost = std::size_t{1} << 20;  // about 150 MB of text
  constexpr std::size_t kOpsOfABlock = 64;
  std::size_t of_a_step = 0;
  for (const Instruction& i : program.step) {
    const bool runs_ops = i.op == Op::forward || i.op == Op::recompute || i.op == Op::backward;
    of_a_step += 1 + (runs_ops ? kOpsOfABlock : 0);
  }
  const auto count =
      static_cast<std::size_t>(std::max<std::int64_t>(0, steps.last - steps.first + 1));
  return std::min(kMost, of_a_step * std::min(count, kMost));
}

SpanLog* Trace::begin(std::int64_t step) {
  if (!config_.steps.contains(step)) {
    return nullptr;
  }
  if (!log_) {
    log_.emplace(config_.spans);
  }
  steps_.push_back({step, border(), {}});
  in_step_ = true;
  return &*log_;
}

void Trace::end() {
  if (!in_step_) {
    return;
  }
  in_step_ = false;
  steps_.back().end = border();
  if (steps_.back().step == config_.steps.last) {
    write();
  }
}

Trace::Border Trace::border() const {
  return {steady_now_ns(), ledger_.labels(kDevice)};
}

std::string Trace::json() const {
  Events events(steps_.front().begin.ns);
  const auto count_bytes = [&](const Border& border) {
    auto series = nlohmann::json::object();
    for (const auto& [label, bytes] : border.labels) {
      series[label] = bytes.current;
    }
    events.counter("bytes", border.ns, series);
  };
  events.name("process_name", Lane::compute, "strata");
  std::array<bool, 5> named{};
  const auto name_lane = [&](Lane lane) {
    if (bool& done = named.at(static_cast<std::size_t>(lane)); !done) {
      events.name("thread_name", lane, lane_name(lane));
      done = true;
    }
  };
  name_lane(Lane::compute);
  for (const TracedStep& s : steps_) {
    count_bytes(s.begin);
    events.work(fmt::format("step {}", s.step),
                "step",
                Lane::compute,
                {s.begin.ns, s.end.ns},
                {{"step", s.step}});
    count_bytes(s.end);
  }
  for (const Span& span : log_->spans()) {
    name_lane(span.lane);
    add_span(events, span);
  }
  const nlohmann::json about{{"program", "strata"},
                             {"first_step", steps_.front().step},
                             {"last_step", steps_.back().step},
                             {"spans_lost", log_->lost()}};
  return fmt::format("{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\"traceEvents\":[\n{}\n]}}\n",
                     about.dump(),
                     events.text());
}

void Trace::write() noexcept {
  try {
    if (in_step_) {  // it threw: its spans ended before now
      steps_.back().end = border();
      in_step_ = false;
    }
    if (steps_.empty()) {
      return;
    }
    io::replace_file(config_.file, json());
    if (log_->lost() > 0) {
      report_.note(fmt::format(
          "strata: warning: {} lacks {} spans of {}; trace fewer steps at once (trace.steps)",
          config_.file.string(),
          log_->lost(),
          log_->lost() + static_cast<std::int64_t>(log_->spans().size())));
    }
  } catch (const std::exception& error) {
    report_.note(fmt::format("strata: warning: trace not written: {}", error.what()));
  }
  steps_.clear();
  log_.reset();
}

}  // namespace strata::launch
