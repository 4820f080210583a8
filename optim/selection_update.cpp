#include "optim/selection_update.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/compress/scratch_size.h"
#include "core/cpu/scratch.h"
#include "core/error.h"
#include "core/random_words.h"

namespace strata::optim {
namespace {

/// The `count` of [0, from) with the smallest random words, ascending. `first`: number of the first
/// word; `words`, `ranked`: room for `from` of them.
void draw_subset(const RandomKey& key,
                 std::int64_t first,
                 std::int64_t from,
                 std::int64_t count,
                 std::uint32_t* words,
                 std::uint64_t* ranked,
                 std::int32_t* chosen) {
  fill_words(words, key, static_cast<std::uint64_t>(first / 4), (from + 3) / 4);
  for (std::int64_t i = 0; i < from; ++i) {
    ranked[i] = static_cast<std::uint64_t>(words[i]) << 32 | static_cast<std::uint64_t>(i);
  }
  std::nth_element(ranked, ranked + count, ranked + from);
  for (std::int64_t i = 0; i < count; ++i) {
    chosen[i] = static_cast<std::int32_t>(ranked[i] & 0xffffffffu);
  }
  std::sort(chosen, chosen + count);
}

}  // namespace

/// What is chosen from: `groups` times `chosen` of `size` places. Columns and rows are chosen once
/// for the matrix; of elements, so many of each chunk.
struct SelectionUpdate::Choice {
  std::int64_t rows = 0, columns = 0;
  std::int64_t size = 0, chosen = 0;  // of one group
  std::int64_t groups = 1;            // chunks of coordinates
  std::int64_t last_size = 0, last_chosen = 0;
  std::int64_t image = 0;  // elements that have moments
};

struct SelectionUpdate::Room {
  std::int32_t* chosen = nullptr;  // groups * chosen
  std::uint32_t* words = nullptr;  // size, rounded up to 4; of one thread
  std::uint64_t* ranked = nullptr;
  float *image = nullptr, *normal = nullptr, *direction = nullptr;

  template <class From>
  static Room lay_out(From& from, const Choice& choice) {
    Room room;
    room.chosen = from.template array<std::int32_t>(choice.groups * choice.chosen);
    room.words = from.template array<std::uint32_t>((choice.size + 3) / 4 * 4);
    room.ranked = from.template array<std::uint64_t>(choice.size);
    room.image = from.template array<float>(choice.image);
    room.normal = from.template array<float>(choice.image);
    room.direction = from.template array<float>(choice.rows * choice.columns);
    return room;
  }
};

SelectionUpdate::SelectionUpdate(SubspaceKind kind,
                                 std::string_view method,
                                 std::span<const Setting> settings)
    : kind_(kind),
      common_(read_part<SubspaceParts>(method, settings)),
      density_(read_part<DensityParts>(method, settings)),
      rest_(read_part<RestParts>(method, settings)) {
  const bool scaled = common_.remainder != Remainder::discard &&
                      common_.remainder != Remainder::sign && common_.remainder != Remainder::sgd;
  if (scaled) {
    throw Error(Errc::config,
                fmt::format("optim.remainder: residual, channel and tensor scale by a subspace of "
                            "few dimensions; with subspace={} set remainder to sign, sgd or "
                            "discard",
                            choices(kind)[static_cast<std::size_t>(kind)]));
  }
}

SelectionUpdate::Choice SelectionUpdate::choice_of(const ParamInfo& param) const {
  const MatrixShape shape(param);
  Choice choice{.rows = shape.rows, .columns = shape.columns};
  const auto part = [&](std::int64_t of) {
    return static_cast<std::int64_t>(std::floor(density_.density * static_cast<double>(of)));
  };
  switch (kind_) {
    case SubspaceKind::columns:
      choice.size = choice.last_size = shape.columns;
      choice.chosen = choice.last_chosen = part(shape.columns);
      choice.image = choice.chosen * shape.rows;
      return choice;
    case SubspaceKind::rows:
      choice.size = choice.last_size = shape.rows;
      choice.chosen = choice.last_chosen = part(shape.rows);
      choice.image = choice.chosen * shape.columns;
      return choice;
    default: {
      const std::int64_t numel = shape.numel();
      choice.size = std::min(numel, kChunk);
      choice.groups = (numel + kChunk - 1) / kChunk;
      choice.last_size = numel - (choice.groups - 1) * kChunk;
      choice.chosen = part(choice.size);
      choice.last_chosen = part(choice.last_size);
      choice.image = (choice.groups - 1) * choice.chosen + choice.last_chosen;
      return choice;
    }
  }
}

std::int64_t SelectionUpdate::moment_numel(const ParamInfo& param) const {
  return choice_of(param).image;
}

void SelectionUpdate::add_fields(const ParamInfo& param,
                                 const Rule& rule,
                                 StateCodec codec,
                                 StateLayout& layout) const {
  for (const Moment& moment : rule.moments()) {
    add_moment_fields(layout, codec, moment, choice_of(param).image);
  }
}

std::int64_t SelectionUpdate::workspace_bytes(const ParamInfo& param) const {
  cpu::ScratchSize size;
  Room::lay_out(size, choice_of(param));
  return size.total_bytes();
}

void SelectionUpdate::choose(const Choice& choice, const RandomKey& key, const Room& room) const {
  for (std::int64_t group = 0; group < choice.groups; ++group) {
    const bool last = group + 1 == choice.groups;
    draw_subset(key,
                group * kChunk,
                last ? choice.last_size : choice.size,
                last ? choice.last_chosen : choice.chosen,
                room.words,
                room.ranked,
                room.chosen + group * choice.chosen);
  }
}

namespace {

/// Calls move(image, matrix, count) for runs of elements of the image and where each lies.
template <class Move>
void for_each_chosen(SubspaceKind kind,
                     std::int64_t rows,
                     std::int64_t columns,
                     std::int64_t groups,
                     std::int64_t chosen,
                     std::int64_t last_chosen,
                     const std::int32_t* list,
                     const Move& move) {
  if (kind == SubspaceKind::columns) {
    parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t i = 0; i < chosen; ++i) {
          move(row * chosen + i, row * columns + list[i]);
        }
      }
    });
  } else if (kind == SubspaceKind::rows) {
    parallel_for(chosen, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        for (std::int64_t column = 0; column < columns; ++column) {
          move(i * columns + column, list[i] * columns + column);
        }
      }
    });
  } else {
    parallel_for(groups, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t group = begin; group < end; ++group) {
        const std::int64_t count = group + 1 == groups ? last_chosen : chosen;
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t at = group * chosen + i;
          move(at, group * kChunk + list[at]);
        }
      }
    });
  }
}

}  // namespace

void SelectionUpdate::update(const MatrixStep& step) const {
  const Choice choice = choice_of(*step.weight.param);
  cpu::Scratch scratch(step.workspace);
  const Room room = Room::lay_out(scratch, choice);
  const std::int64_t done = step.info.step - 1, period = common_.refresh_every;
  choose(choice,
         {step.info.seed,
          RandomUse::subspace,
          static_cast<std::uint64_t>(done / period),
          static_cast<std::uint64_t>(step.weight.param->id)},
         room);
  if (common_.reset && done % period == 0) {
    clear_moments(step.rule.moments(), step.codec, step.state);
  }
  const std::int64_t t = common_.reset ? done % period + 1 : step.info.t();
  const auto each_chosen = [&](const auto& move) {
    for_each_chosen(kind_,
                    choice.rows,
                    choice.columns,
                    choice.groups,
                    choice.chosen,
                    choice.last_chosen,
                    room.chosen,
                    move);
  };
  each_chosen([&](std::int64_t at, std::int64_t in) { room.image[at] = step.grad[in]; });
  RuleLoop<float> loop = image_loop(step, choice.image);
  loop.grad = room.image;
  loop.directions = room.normal;
  step.rule.run({.t = t}, {}, loop);
  const std::int64_t numel = choice.rows * choice.columns;
  const auto rest =
      static_cast<float>(common_.remainder == Remainder::discard ? 0.0 : rest_.rest_lr);
  const bool signs = common_.remainder == Remainder::sign;
  for_each_tile(numel, [&](std::int64_t begin, std::int64_t n) {
    for (std::int64_t i = begin; i < begin + n; ++i) {
      const float g = step.scale * step.grad[i];
      room.direction[i] = rest * (signs ? sign(g) : g);
    }
  });
  const auto factor = static_cast<float>(step.rule.step_factor(t));
  each_chosen(
      [&](std::int64_t at, std::int64_t in) { room.direction[in] = factor * room.normal[at]; });
  for_each_tile(numel, [&](std::int64_t begin, std::int64_t n) {
    move_weights(step.weight, begin, n, room.direction + begin, step.by, step.info);
  });
}

}  // namespace strata::optim
