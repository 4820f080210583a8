#include "launch/recompute_setting.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::launch {
namespace {

using offload::Recompute;
using Range = RecomputeSetting::Range;

std::optional<Recompute> parse_word(std::string_view text) {
  for (const Recompute r : {Recompute::none,
                            Recompute::elementwise,
                            Recompute::mlp,
                            Recompute::projections,
                            Recompute::block}) {
    if (text == to_string(r)) {
      return r;
    }
  }
  return std::nullopt;
}

std::optional<std::int64_t> parse_block(std::string_view text) {
  constexpr std::int64_t kMost = 1 << 20;
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && value >= 0 && value < kMost ? std::optional(value) : std::nullopt;
}

/// "6:elementwise", "0-5:block".
std::optional<Range> parse_range(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return std::nullopt;
  }
  const std::string_view blocks = text.substr(0, colon);
  const std::size_t dash = blocks.find('-');
  const auto first = parse_block(blocks.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : parse_block(blocks.substr(dash + 1));
  const auto recompute = parse_word(text.substr(colon + 1));
  if (!first || !last || *last < *first || !recompute) {
    return std::nullopt;
  }
  return Range{*first, *last, *recompute};
}

}  // namespace

std::optional<RecomputeSetting> parse_recompute(std::string_view text) {
  if (text == "auto") {
    return RecomputeSetting{.automatic = true};
  }
  if (const auto every = parse_word(text)) {
    return RecomputeSetting{.every = *every};
  }
  RecomputeSetting setting;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const auto range = parse_range(text.substr(at, comma - at));
    if (!range) {
      return std::nullopt;
    }
    setting.ranges.push_back(*range);
    at = comma + 1;
  }
  std::ranges::sort(setting.ranges, {}, &Range::first);
  std::vector<Range> joined;
  for (const Range& range : setting.ranges) {
    if (!joined.empty() && range.first <= joined.back().last) {
      return std::nullopt;
    }
    const bool goes_on = !joined.empty() && range.first == joined.back().last + 1 &&
                         range.recompute == joined.back().recompute;
    if (goes_on) {
      joined.back().last = range.last;
    } else {
      joined.push_back(range);
    }
  }
  setting.ranges = std::move(joined);
  return setting;
}

std::string to_string(const RecomputeSetting& setting) {
  if (setting.automatic || setting.ranges.empty()) {
    return std::string(setting.automatic ? "auto" : to_string(setting.every));
  }
  std::string text;
  for (const Range& r : setting.ranges) {
    text += fmt::format("{}{}{}:{}",
                        text.empty() ? "" : ",",
                        r.first,
                        r.last > r.first ? fmt::format("-{}", r.last) : "",
                        to_string(r.recompute));
  }
  return text;
}

RecomputeSetting what_is_kept(RecomputeSetting setting) {
  const auto keeps_all = [](Recompute r) { return r == Recompute::none || r == Recompute::block; };
  std::erase_if(setting.ranges, [&](const Range& range) { return keeps_all(range.recompute); });
  setting.every = setting.automatic || keeps_all(setting.every) ? Recompute::none : setting.every;
  setting.automatic = false;
  return setting;
}

offload::RecomputeChoice choice_of(const RecomputeSetting& setting, std::int64_t L) {
  STRATA_ASSERT(!setting.automatic);
  offload::RecomputeChoice choice(static_cast<std::size_t>(L), setting.every);
  for (const Range& range : setting.ranges) {
    if (range.last >= L) {
      throw Error(Errc::config,
                  fmt::format("config: memory.recompute = {} names decoder block {}, the model has "
                              "blocks 0 to {}",
                              to_string(setting),
                              range.last,
                              L - 1));
    }
    std::fill(choice.begin() + range.first, choice.begin() + range.last + 1, range.recompute);
  }
  return choice;
}

}  // namespace strata::launch
