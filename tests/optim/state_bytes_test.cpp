// Bytes of state of real models: the sum of a method's fields against its formula, and against the
// published table.
#include <algorithm>
#include <numeric>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "optim/optimizer.h"

namespace strata::optim {
namespace {

void add(std::vector<ParamInfo>& model, Role role, Shape shape, int output_axis = 0) {
  const auto id = static_cast<TensorId>(model.size());
  model.push_back({id, fmt::format("p{}", id), role, shape, output_axis});
}

/// Fused projections of attention; weights kept (in, out).
std::vector<ParamInfo> gpt2_124m() {
  std::vector<ParamInfo> model;
  add(model, Role::embed, {50257, 768});
  add(model, Role::embed, {1024, 768});
  for (int layer = 0; layer < 12; ++layer) {
    add(model, Role::matrix, {768, 2304}, 1);
    add(model, Role::matrix, {768, 768}, 1);
    add(model, Role::matrix, {768, 3072}, 1);
    add(model, Role::matrix, {3072, 768}, 1);
    for (const std::int64_t n : {2304, 768, 3072, 768, 768, 768, 768, 768}) {
      add(model, Role::vector, {n});
    }
  }
  add(model, Role::vector, {768});
  add(model, Role::vector, {768});
  return model;
}

/// Tied head; projections apart, kept (out, in).
std::vector<ParamInfo> llama_3_2_1b() {
  std::vector<ParamInfo> model;
  add(model, Role::embed, {128256, 2048});
  for (int layer = 0; layer < 16; ++layer) {
    for (const std::int64_t outputs : {2048, 512, 512, 2048, 8192, 8192}) {
      add(model, Role::matrix, {outputs, 2048});
    }
    add(model, Role::matrix, {2048, 8192});
    add(model, Role::vector, {2048});
    add(model, Role::vector, {2048});
  }
  add(model, Role::vector, {2048});
  return model;
}

using Formula = std::int64_t (*)(const ParamInfo&);

struct Bytes {
  std::int64_t matrices = 0, all = 0;
  void add(const ParamInfo& param, std::int64_t bytes) {
    all += bytes;
    matrices += param.role == Role::matrix ? bytes : 0;
  }
  /// As the table prints it, in MB of 10^6.
  std::string text() const {
    const auto mega = [](std::int64_t bytes) { return static_cast<double>(bytes) / 1e6; };
    return fmt::format("{:.2f} / {:.2f}", mega(matrices), mega(all));
  }
};

Bytes of_fields(const Optimizer& method, const std::vector<ParamInfo>& model) {
  Bytes sum;
  for (const ParamInfo& param : model) {
    const std::int64_t numel = param.shape.numel();
    std::int64_t bytes = 0;
    for (const StateField& field : method.state_layout(param)) {
      bytes += field_numel(field, param.shape, 0, numel) * size_bytes(field.dtype);
    }
    sum.add(param, bytes);
  }
  return sum;
}

Bytes of_formula(Formula formula, const std::vector<ParamInfo>& model) {
  Bytes sum;
  for (const ParamInfo& param : model) {
    sum.add(param, formula(param));
  }
  return sum;
}

std::int64_t blocks(std::int64_t numel, std::int64_t of) {
  return (numel + of - 1) / of;
}
std::int64_t numel(const ParamInfo& p) {
  return p.shape.numel();
}
/// Plain AdamW, of what a method for matrices leaves.
std::int64_t adam(const ParamInfo& p) {
  return 8 * numel(p);
}

/// Moments in 8 bits, a scale for each 256; vectors, embeddings and small tensors in f32.
std::int64_t eight_bit(const ParamInfo& p, std::int64_t moments) {
  const bool coded = p.role == Role::matrix && numel(p) >= 4096;
  return moments * (coded ? numel(p) + 4 * blocks(numel(p), 256) : 4 * numel(p));
}

std::int64_t long_side(const ParamInfo& p) {
  return std::max(p.shape[0], p.shape[1]);
}
std::int64_t short_side(const ParamInfo& p) {
  return std::min(p.shape[0], p.shape[1]);
}

struct Row {
  const char* method;
  std::vector<Setting> settings;
  Formula formula;
  const char *gpt2, *llama;  // of the table; empty: not in it
};

/// Errors in bf16, 32 rows of 41 of 4096, the Gram matrix of the rows.
std::int64_t preconditioner(const ParamInfo& p) {
  const std::int64_t n = numel(p), kept = n / 4096 * 41 + blocks(n % 4096, 100);
  return p.role == Role::vector ? adam(p) : 2 * n + 32 * kept * (2 + 2) + 8 * 32 * 32;
}

std::vector<Row> rows() {
  return {
      {"adamw", {}, &adam, "679.48 / 995.52", "7784.63 / 9886.52"},
      // Of what has a turn.
      {"badam", {}, &adam, "", ""},
      {"lisa", {}, &adam, "", ""},
      {"sgd",
       {{"momentum", "0.9"}},
       [](const ParamInfo& p) { return 4 * numel(p); },
       "339.74 / 497.76",
       "3892.31 / 4943.26"},
      {"sgd", {}, [](const ParamInfo&) -> std::int64_t { return 0; }, "0.00 / 0.00", "0.00 / 0.00"},
      {"lion",
       {},
       [](const ParamInfo& p) { return 4 * numel(p); },
       "339.74 / 497.76",
       "3892.31 / 4943.26"},
      {"adamw8bit",
       {},
       [](const ParamInfo& p) { return eight_bit(p, 2); },
       "172.52 / 488.56",
       "1976.57 / 4078.45"},
      {"lion8bit", {}, [](const ParamInfo& p) { return eight_bit(p, 1); }, "", ""},
      {"sgd8bit", {}, [](const ParamInfo& p) { return eight_bit(p, 1); }, "", ""},
      {"adamw4bit",
       {},
       [](const ParamInfo& p) {
         return p.role == Role::matrix ? 2 * (blocks(numel(p), 2) + 4 * blocks(numel(p), 128))
                                       : adam(p);
       },
       "",
       ""},
      {"coat_adamw",
       {},
       [](const ParamInfo& p) {
         return p.role == Role::vector ? adam(p) : 2 * numel(p) + 24 * blocks(numel(p), 128);
       },
       "185.79 / 272.92",
       "2128.61 / 2703.74"},
      {"muon",
       {},
       [](const ParamInfo& p) { return p.role == Role::matrix ? 4 * numel(p) : adam(p); },
       "339.74 / 655.78",
       "3892.31 / 5994.20"},
      // One second moment for each output of a matrix and each row of an embedding.
      {"adam_mini",
       {},
       [](const ParamInfo& p) {
         const std::int64_t outputs = p.shape[static_cast<std::size_t>(p.output_axis)];
         return 4 * numel(p) + 4 * outputs;
       },
       "340.07 / 498.78",
       "3893.82 / 4945.55"},
      {"frugal",
       {},
       [](const ParamInfo& p) {
         return p.role == Role::matrix ? 8 * p.shape[0] * (p.shape[1] / 4) : adam(p);
       },
       "169.87 / 485.91",
       "1946.16 / 4048.04"},
      {"apollo_mini",
       {},
       [](const ParamInfo& p) { return p.role == Role::matrix ? 8 * long_side(p) + 4 : adam(p); },
       "0.88 / 316.93",
       "4.19 / 2106.08"},
      // Windows of ten rows, 41 of 4096; a bf16 range for each 64. The reference allocates one
      // range more than there are blocks where 64 divides a tensor: 4 bytes each, not to be seen
      // here.
      {"microadam",
       {},
       [](const ParamInfo& p) {
         const std::int64_t n = numel(p), rest = n % 4096;
         const std::int64_t kept = n / 4096 * 41 + blocks(rest, 100);
         return p.role == Role::vector ? adam(p)
                                       : blocks(n, 2) + 4 * blocks(n, 64) + 10 * kept * (2 + 2);
       },
       "81.78 / 120.68",
       "936.97 / 1190.43"},
      // A gain for each tensor.
      {"sgd_sai", {}, [](const ParamInfo& p) { return 4 * numel(p) + 4; }, "", ""},
      // Moments, two squares for each side, and when it started.
      {"soap",
       {},
       [](const ParamInfo& p) {
         return p.role == Role::matrix
                    ? 8 * numel(p) + 8 * p.shape[0] * p.shape[0] + 8 * p.shape[1] * p.shape[1] + 4
                    : adam(p);
       },
       "3284.14 / 3600.18",
       "38453.38 / 40555.27"},
      {"mfac_sparse", {}, &preconditioner, "", ""},
      {"ggt_lowrank", {}, &preconditioner, "", ""},
  };
}

/// Methods of a rank, which differs between the models of the table: 256 and 512.
template <std::int64_t Rank>
std::vector<Row> rows_of_rank() {
  const std::vector<Setting> rank{{"rank", std::to_string(Rank)}};
  static constexpr auto basis = [](const ParamInfo& p) { return 2 * Rank * short_side(p); };
  static constexpr auto image = [](const ParamInfo& p) { return Rank * long_side(p); };
  return {
      {"galore",
       rank,
       [](const ParamInfo& p) {
         return p.role == Role::matrix ? basis(p) + 2 * 2 * image(p) : adam(p);
       },
       "132.12 / 448.16",
       "1258.29 / 3360.18"},
      {"galore8bit",
       rank,
       [](const ParamInfo& p) {
         return p.role == Role::matrix ? basis(p) + 2 * (image(p) + 4 * blocks(image(p), 256))
                                       : adam(p);
       },
       "",
       ""},
      // Codes of a basis in four bits with scale and zero point for each 256, moments in 8 bits;
      // the table leaves out the direction and the numbers that time the refreshes.
      {"qgalore",
       rank,
       [](const ParamInfo& p) {
         const std::int64_t kept = basis(p) / 2;
         return p.role == Role::matrix
                    ? blocks(kept, 2) + 8 * blocks(kept, 256) +
                          2 * (image(p) + 4 * blocks(image(p), 256)) + 4 * (8 + short_side(p))
                    : adam(p);
       },
       "",
       ""},
      {"natural_galore",
       rank,
       [](const ParamInfo& p) {
         return p.role == Role::matrix ? basis(p) + 2 * 2 * image(p) + 20 * 4 * image(p) : adam(p);
       },
       "",
       ""},
      // The limited norm besides.
      {"fira",
       rank,
       [](const ParamInfo& p) {
         return p.role == Role::matrix ? basis(p) + 2 * 2 * image(p) + 4 : adam(p);
       },
       "132.12 / 448.16",
       "1258.29 / 3360.18"},
      {"apollo",
       rank,
       [](const ParamInfo& p) { return p.role == Role::matrix ? 8 * image(p) + 4 : adam(p); },
       "226.49 / 542.53",
       "2147.48 / 4249.37"},
  };
}

std::vector<Row> rows_for(bool gpt2) {
  std::vector<Row> all = rows();
  const std::vector<Row> ranked = gpt2 ? rows_of_rank<256>() : rows_of_rank<512>();
  all.insert(all.end(), ranked.begin(), ranked.end());
  return all;
}

TEST(StateBytes, ModelsHaveTheParametersOfTheTable) {
  const auto count = [](const std::vector<ParamInfo>& model, Role role) {
    return std::accumulate(
        model.begin(), model.end(), std::int64_t{0}, [&](std::int64_t sum, const ParamInfo& p) {
          return sum + (p.role == role ? numel(p) : 0);
        });
  };
  EXPECT_EQ(count(gpt2_124m(), Role::matrix), 84'934'656);
  EXPECT_EQ(count(gpt2_124m(), Role::embed), 39'383'808);
  EXPECT_EQ(count(gpt2_124m(), Role::vector), 121'344);
  EXPECT_EQ(count(llama_3_2_1b(), Role::matrix), 973'078'528);
  EXPECT_EQ(count(llama_3_2_1b(), Role::embed), 262'668'288);
  EXPECT_EQ(count(llama_3_2_1b(), Role::vector), 67'584);
}

TEST(StateBytes, AreThoseOfTheFormulasAndTheTable) {
  for (const auto& [model, gpt2] : {std::pair{gpt2_124m(), true}, {llama_3_2_1b(), false}}) {
    for (const Row& row : rows_for(gpt2)) {
      const auto method = make_optimizer(row.method, row.settings);
      const Bytes got = of_fields(*method, model), want = of_formula(row.formula, model);
      EXPECT_EQ(got.matrices, want.matrices) << row.method;
      EXPECT_EQ(got.all, want.all) << row.method;
      const std::string table = gpt2 ? row.gpt2 : row.llama;
      EXPECT_TRUE(table.empty() || got.text() == table) << row.method << ": " << got.text();
    }
  }
}

// A new method without a row would go unchecked.
TEST(StateBytes, EveryMethodHasARow) {
  for (const std::string& name : optimizer_names()) {
    const std::vector<Row> known = rows_for(true);
    EXPECT_TRUE(std::ranges::any_of(known, [&](const Row& row) { return row.method == name; }))
        << name;
  }
}

// Odd sizes, sizes below the threshold, one element, none.
TEST(StateBytes, AreThoseOfTheFormulasForAnyShape) {
  std::vector<ParamInfo> model;
  for (const Role role : {Role::matrix, Role::embed, Role::vector}) {
    for (const Shape& shape : {Shape{37, 61}, {64, 64}, {4095, 1}, {4097}, {1}, {0}}) {
      add(model, role, shape);
    }
  }
  for (const Row& row : rows()) {
    if (row.method == std::string("adamw8bit") || row.method == std::string("lion8bit")) {
      const auto method = make_optimizer(row.method, row.settings);
      EXPECT_EQ(of_fields(*method, model).all, of_formula(row.formula, model).all) << row.method;
    }
  }
}

}  // namespace
}  // namespace strata::optim
