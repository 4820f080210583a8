#include "launch/fields.h"

namespace strata::launch {

// clang-format off
std::vector<Field> lossy_fields() {
  return {
      {"numerics.allow_lossy", FieldType::boolean, "false", Effect::none,
       "consent to settings that lose digits where another would keep them: memory.activation_codec",
       [](RunConfig& c, const Value& v) { c.allow_lossy = v.boolean(); }},
      {"memory.activation_codec", FieldType::choice, "exact", Effect::bits,
       "how decoder blocks keep what backward reads again; fp8, int8 and int4 lose digits of gradients and need numerics.allow_lossy=true: about 1.03, 1.02 and 0.56 bytes an element",
       [](RunConfig& c, const Value& v) {
         using enum ActivationCodec;
         c.memory.activation_codec = v.pick({exact, fp8, int8, int4});
       },
       {"exact", "fp8", "int8", "int4"}},
  };
}
// clang-format on

}  // namespace strata::launch
