#include "offload/profile.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace strata::offload {
namespace {

using nlohmann::json;

/// Reads fields of one object; throws format naming where.
class Fields {
 public:
  Fields(const json& object, std::string origin) : object_(object), origin_(std::move(origin)) {
    if (!object.is_object()) {
      throw Error(Errc::format, fmt::format("{}: no object; measure it again", origin_));
    }
  }
  const json& at(const char* name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) {
      fail(name, "is absent");
    }
    return *found;
  }
  double rate(const char* name) const {
    const json& value = at(name);
    if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
      fail(name, "needs a number above 0, got " + value.dump());
    }
    return value.get<double>();
  }
  std::string text(const char* name) const {
    const json& value = at(name);
    if (!value.is_string()) {
      fail(name, "needs a text, got " + value.dump());
    }
    return value.get<std::string>();
  }
  [[noreturn]] void fail(const char* name, const std::string& how) const {
    throw Error(Errc::format,
                fmt::format("{}: '{}' {}; measure it again with strata bench hardware --refresh",
                            origin_,
                            name,
                            how));
  }

 private:
  const json& object_;
  std::string origin_;
};

PathRates path_from_json(const json& object, const std::string& origin) {
  const Fields fields(object, origin);
  PathRates path;
  path.directory = fields.text("directory");
  path.read = fields.rate("read");
  path.write = fields.rate("write");
  path.mixed = fields.rate("mixed");
  path.block_bytes = static_cast<std::int64_t>(fields.rate("block_bytes"));
  path.depth = static_cast<int>(fields.rate("depth"));
  path.direct = fields.at("direct").is_boolean() && fields.at("direct").get<bool>();
  path.engine = fields.text("engine");
  return path;
}

}  // namespace

double memory_copy_rate(const HardwareProfile& p, Tier from, Tier to, bool other_node) {
  const auto rate = [&](Tier tier) {
    if (tier.kind == TierKind::pinned && p.copy_pinned > 0) {
      return p.copy_pinned;
    }
    if (tier.kind == TierKind::far && other_node) {
      return p.copy_far > 0 ? p.copy_far : p.copy / 2;
    }
    return p.copy;
  };
  return std::min(rate(from), rate(to)) / 2;
}

std::string to_json(const HardwareProfile& p) {
  json paths = json::array();
  for (const PathRates& path : p.paths) {
    paths.push_back({{"directory", path.directory},
                     {"read", path.read},
                     {"write", path.write},
                     {"mixed", path.mixed},
                     {"block_bytes", path.block_bytes},
                     {"depth", path.depth},
                     {"direct", path.direct},
                     {"engine", path.engine}});
  }
  json object{{"machine", p.machine},
              {"gemm_f32", p.gemm_f32},
              {"gemm_bf16", p.gemm_bf16},
              {"copy", p.copy},
              {"update", p.update},
              {"codecs", {{"fp8", p.codecs.fp8}, {"int8", p.codecs.int8}, {"int4", p.codecs.int4}}},
              {"gemm_beside_copy", p.gemm_beside_copy},
              {"paths", paths}};
  if (p.copy_pinned > 0) {
    object["copy_pinned"] = p.copy_pinned;
  }
  if (p.copy_far > 0) {
    object["copy_far"] = p.copy_far;
  }
  if (!p.paths.empty()) {
    object["gemm_beside_io"] = p.gemm_beside_io;
  }
  return object.dump(2) + "\n";
}

HardwareProfile profile_from_json(std::string_view text, const std::string& origin) {
  const json object = json::parse(text, nullptr, false);
  const Fields fields(object, origin);
  HardwareProfile p;
  p.machine = fields.text("machine");
  p.gemm_f32 = fields.rate("gemm_f32");
  p.gemm_bf16 = fields.rate("gemm_bf16");
  p.copy = fields.rate("copy");
  p.copy_pinned = object.contains("copy_pinned") ? fields.rate("copy_pinned") : 0;
  p.copy_far = object.contains("copy_far") ? fields.rate("copy_far") : 0;
  p.update = fields.rate("update");
  if (!fields.at("codecs").is_object()) {
    fields.fail("codecs", "needs an object");
  }
  const Fields codecs(fields.at("codecs"), origin + ": codecs");
  p.codecs = {codecs.rate("fp8"), codecs.rate("int8"), codecs.rate("int4")};
  p.gemm_beside_copy = fields.rate("gemm_beside_copy");
  if (!fields.at("paths").is_array()) {
    fields.fail("paths", "needs a list");
  }
  for (const json& path : fields.at("paths")) {
    p.paths.push_back(path_from_json(path, origin + ": paths"));
  }
  if (!p.paths.empty()) {
    p.gemm_beside_io = fields.rate("gemm_beside_io");
  }
  return p;
}

}  // namespace strata::offload
