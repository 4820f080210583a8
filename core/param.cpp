#include "core/param.h"

namespace strata {

std::string_view to_string(Role role) {
  constexpr std::string_view names[] = {"matrix", "embed", "head", "vector"};
  return names[static_cast<std::size_t>(role)];
}

std::string_view to_string(WeightFormat format) {
  constexpr std::string_view names[] = {
      "f32", "bf16_master", "bf16_stochastic", "bf16_kahan", "int8"};
  return names[static_cast<std::size_t>(format)];
}

std::int64_t field_numel(const StateField& field,
                         const Shape& shape,
                         std::int64_t begin,
                         std::int64_t end) {
  using Unit = Granularity::Unit;
  const std::int64_t columns = shape.rank() == 0 ? 1 : shape.back();
  const bool has_first = begin == 0 && end > begin;  // whose owner has what is kept once
  const auto units_before = [&](std::int64_t element, std::int64_t unit) {
    return (element + unit - 1) / unit;
  };
  switch (field.along.unit) {
    case Unit::element:
      return field.per_unit * (end - begin);
    case Unit::block: {
      const std::int64_t units =
          units_before(end, field.along.block) - units_before(begin, field.along.block);
      const bool short_one = end > begin && end % field.along.block != 0 && field.last_unit >= 0;
      return field.per_unit * units + (short_one ? field.last_unit - field.per_unit : 0);
    }
    case Unit::row:
      return field.per_unit * (units_before(end, columns) - units_before(begin, columns));
    case Unit::column:
      return has_first ? field.per_unit * columns : 0;
    case Unit::whole:
      return has_first ? field.per_unit : 0;
  }
  return 0;
}

Tensor& StateViews::operator[](std::string_view field) {
  for (Named& named : fields_) {
    if (named.name == field) {
      return named.view;
    }
  }
  throw Error(Errc::internal, "state: no field '" + std::string(field) + "' was declared");
}

}  // namespace strata
