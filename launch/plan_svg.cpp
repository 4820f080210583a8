#include "launch/plan_svg.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

#include <fmt/format.h>

#include "launch/forecast.h"

namespace strata::launch {
namespace {

using offload::bytes_text;
using offload::Link;

constexpr double kWidth = 1200, kLeft = 130, kRight = 36, kSpan = kWidth - kLeft - kRight;
constexpr double kTop = 64, kLane = 30, kGap = 8;
constexpr const char* kColours[] = {"#4e79a7",
                                    "#f28e2b",
                                    "#59a14f",
                                    "#b07aa1",
                                    "#76b7b2",
                                    "#edc948",
                                    "#9c755f",
                                    "#ff9da7",
                                    "#8cd17d",
                                    "#bab0ac",
                                    "#d37295",
                                    "#a0cbe8"};

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    safe += c == '&'   ? "&amp;"
            : c == '<' ? "&lt;"
            : c == '>' ? "&gt;"
            : c == '"' ? "&quot;"
                       : std::string(1, c);
  }
  return safe;
}

struct Box {
  double x = 0, y = 0, width = 0, height = 0;
};

class Drawing {
 public:
  explicit Drawing(const Planned& planned)
      : planned_(planned),
        program_(planned.blueprint->step_program()),
        forecast_(forecast(*planned.blueprint)) {}

  std::string draw() {
    lanes();
    instructions();
    axis();
    tiers();
    const Forecast& f = forecast_;
    const std::string title = fmt::format("step of {} predicted (bound {} by {}), {:.4g} tokens/s",
                                          seconds_text(f.step.seconds),
                                          seconds_text(f.step.bound_seconds()),
                                          f.step.bound_by(),
                                          f.tokens_per_second);
    const double height = y_ + kGap;
    std::string head = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:g} {1:g}\" width=\"{0:g}\" "
        "height=\"{1:g}\" font-family=\"sans-serif\" font-size=\"13\">\n"
        "<rect class=\"page\" width=\"{0:g}\" height=\"{1:g}\" fill=\"#ffffff\"/>\n",
        kWidth,
        height);
    text_at(head, 10, 22, title, "font-size=\"15\"");
    text_at(head, 10, 42, fmt::format("rates {}", f.measured ? "measured" : "assumed"), "");
    return head + body_ + "</svg>\n";
  }

 private:
  static void text_at(
      std::string& to, double x, double y, std::string_view text, std::string_view style) {
    to += fmt::format("<text x=\"{:g}\" y=\"{:g}\" {}>{}</text>\n", x, y, style, escaped(text));
  }
  void rect(std::string_view kind, const Box& b, std::string_view fill, std::string_view title) {
    fmt::format_to(std::back_inserter(body_),
                   "<rect class=\"{}\" x=\"{:.3f}\" y=\"{:g}\" width=\"{:.3f}\" height=\"{:g}\" "
                   "fill=\"{}\"><title>{}</title></rect>\n",
                   kind,
                   b.x,
                   b.y,
                   b.width,
                   b.height,
                   fill,
                   escaped(title));
  }
  std::string_view colour(const std::string& name) {
    const auto [at, added] = colours_.try_emplace(name, colours_.size());
    return kColours[at->second % std::size(kColours)];
  }
  double x_of(double seconds) const {
    return kLeft + (forecast_.step.seconds > 0 ? kSpan * seconds / forecast_.step.seconds : 0);
  }
  void lane(const std::string& name, double busy) {
    text_at(body_, 10, y_ + 13, name, "class=\"lane\"");
    text_at(body_, 10, y_ + 27, seconds_text(busy), "fill=\"#666666\" font-size=\"11\"");
    y_ += kLane + kGap;
  }
  /// Of what is busy at all.
  void lanes() {
    lane("compute", forecast_.step.compute_seconds);
    for (const auto& [link, seconds] : forecast_.step.busy) {
      if (seconds > 0) {
        lane_of_[link] = y_;
        lane(to_string(link), seconds);
      }
    }
  }
  void instructions();
  void axis();
  void tiers();
  void tier(Tier tier, const offload::TierPlan& plan);

  const Planned& planned_;
  const Program& program_;
  const Forecast forecast_;
  std::string body_;
  std::map<std::string, std::size_t> colours_;  // by what is drawn
  std::map<Link, double> lane_of_;
  double y_ = kTop;
};

std::string what(const Instruction& i) {
  std::string text(to_string(i.op));
  text += is_move(i.op) ? " " + std::string(to_string(i.cls)) : "";
  text += i.block >= 0 ? fmt::format(", block {}", i.block) : "";
  return text + (i.micro_batch >= 0 ? fmt::format(", micro-batch {}", i.micro_batch) : "");
}

void Drawing::instructions() {
  const offload::Simulation& s = forecast_.step;
  const auto box = [&](double begin, double end, double y) {
    return Box{x_of(begin), y, x_of(end) - x_of(begin), kLane};
  };
  const auto stall = [&](std::size_t k, double until) {
    if (s.stalls[k] > 0) {
      rect("stall",
           box(until - s.stalls[k], until, kTop),
           "#e15759",
           fmt::format("stalled {}", seconds_text(s.stalls[k])));
    }
  };
  double now = 0;  // of what computes
  for (std::size_t k = 0; k < program_.step.size(); ++k) {
    const Instruction& i = program_.step[k];
    const auto [begin, end] = s.at[k];
    now += s.stalls[k];
    stall(k, now);
    if (end <= begin) {
      continue;
    }
    std::string title = fmt::format("{}: {}", what(i), seconds_text(end - begin));
    if (is_move(i.op)) {
      const Link link{i.source, i.tier};
      const std::int64_t bytes = planned_.blueprint->plan().sizes.at(i.key());
      title += fmt::format(", {}, {}", bytes_text(bytes), to_string(link));
      rect(
          "move", box(begin, end, lane_of_.at(link)), colour(std::string(to_string(i.cls))), title);
    } else {
      now = end;
      rect("op", box(begin, end, kTop), colour(std::string(to_string(i.op))), title);
    }
  }
  stall(program_.step.size(), s.seconds);
}

/// Ticks of time, and what the colours mean.
void Drawing::axis() {
  constexpr int kTicks = 8;
  for (int t = 0; t <= kTicks; ++t) {
    const double seconds = forecast_.step.seconds * t / kTicks;
    body_ += fmt::format(
        "<path d=\"M{0:.2f} {1:g}V{2:g}\" stroke=\"#cccccc\"/>\n", x_of(seconds), kTop - 4, y_);
    text_at(body_,
            x_of(seconds),
            y_ + 14,
            seconds_text(seconds),
            "font-size=\"11\" text-anchor=\"middle\" fill=\"#666666\"");
  }
  y_ += 30;
}

void Drawing::tiers() {
  for (const auto& [tier, plan] : planned_.blueprint->plan().tiers) {
    this->tier(tier, plan);
  }
  double x = kLeft;
  const auto key = [&](const std::string& name, std::string_view fill) {
    const double width = 22 + 7.5 * static_cast<double>(name.size());
    if (x + width > kWidth - kRight) {
      x = kLeft;
      y_ += 20;
    }
    body_ +=
        fmt::format("<circle cx=\"{:g}\" cy=\"{:g}\" r=\"5\" fill=\"{}\"/>\n", x + 5, y_, fill);
    text_at(body_, x + 14, y_ + 4, name, "font-size=\"11\"");
    x += width;
  };
  y_ += 10;
  key("stalled", "#e15759");
  for (const auto& [name, index] : colours_) {
    key(name, kColours[index % std::size(kColours)]);
  }
  y_ += 10;
}

/// As long as the budget, or four times what is reserved where that is less.
void Drawing::tier(Tier tier, const offload::TierPlan& plan) {
  const auto budget = planned_.budgets.find(tier);
  const std::int64_t allowed = budget == planned_.budgets.end() ? 0 : budget->second;
  const std::int64_t all =
      std::max<std::int64_t>({1, plan.arena_bytes, std::min(allowed, 4 * plan.arena_bytes)});
  const auto wide = [&](std::int64_t bytes) {
    return kSpan * static_cast<double>(bytes) / static_cast<double>(all);
  };
  text_at(body_, 10, y_ + 20, to_string(tier), "class=\"tier\"");
  rect("bar",
       {kLeft, y_, kSpan, kLane},
       "#eeeeee",
       fmt::format("{}: {} reserved of {}",
                   to_string(tier),
                   bytes_text(plan.arena_bytes),
                   bytes_text(allowed)));
  const auto fullest = std::ranges::max_element(
      plan.phases, {}, [](const auto& phase) { return phase.second.peak_bytes; });
  double x = kLeft;
  if (fullest != plan.phases.end()) {
    for (const auto& [label, bytes] : fullest->second.labels) {
      rect("part",
           {x, y_, wide(bytes), kLane},
           colour(label),
           fmt::format("{}: {}", label, bytes_text(bytes)));
      x += wide(bytes);
    }
  }
  y_ += kLane + 14;
  text_at(body_,
          kLeft,
          y_,
          fmt::format("{} at the peak, {} reserved, budget {}",
                      bytes_text(plan.peak_bytes),
                      bytes_text(plan.arena_bytes),
                      bytes_text(allowed)),
          "font-size=\"11\" fill=\"#666666\"");
  y_ += 2 * kGap;
}

}  // namespace

std::string plan_svg(const Planned& planned) {
  return Drawing(planned).draw();
}

}  // namespace strata::launch
