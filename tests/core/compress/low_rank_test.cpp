#include "core/compress/low_rank.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "tests/support/errors.h"
#include "tests/support/matmul_shapes.h"

namespace strata {
namespace {

constexpr RandomKey kKey{.seed = 3, .use = RandomUse::subspace, .a = 5, .b = 7};

float& at(const Tensor& t, std::int64_t i, std::int64_t j) {
  return t.data<float>()[i * t.shape().back() + j];
}

Tensor random_matrix(std::int64_t a, std::int64_t b, std::uint64_t seed = 1) {
  return tests::random_values(DType::f32, a * b, seed).reshape({a, b});
}

/// Singular values 1, decay, decay^2, ... (times about sqrt(a b)) in random directions.
Tensor decaying_matrix(std::int64_t a, std::int64_t b, std::int64_t rank, float decay) {
  const Tensor G = Tensor::zeros(DType::f32, {a, b});
  const Tensor left = random_matrix(a, rank, 11), right = random_matrix(rank, b, 12);
  for (std::int64_t i = 0; i < a; ++i) {
    float size = 1.f;
    for (std::int64_t r = 0; r < rank; ++r, size *= decay) {
      for (std::int64_t j = 0; j < b; ++j) {
        at(G, i, j) += size * at(left, i, r) * at(right, r, j);
      }
    }
  }
  return G;
}

double energy(const Tensor& t) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    sum += static_cast<double>(t.data<float>()[i]) * static_cast<double>(t.data<float>()[i]);
  }
  return sum;
}

/// Exactly the bytes that were asked for, between guards that must not change.
class Workspace {
 public:
  explicit Workspace(std::int64_t size) : bytes_(static_cast<std::size_t>(size + 128), kGuard) {}
  ~Workspace() {
    for (std::size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(bytes_[i], kGuard);
      EXPECT_EQ(bytes_[bytes_.size() - 1 - i], kGuard);
    }
  }
  operator std::span<std::byte>() { return std::span(bytes_).subspan(64, bytes_.size() - 128); }

 private:
  static constexpr std::byte kGuard{0xa5};
  std::vector<std::byte> bytes_;
};

enum class Method { randomized, exact, random };

Tensor basis_of(const Tensor& G, std::int64_t rank, Method method, const RandomKey& key = kKey) {
  const LowRankShape shape{G.shape()[0], G.shape()[1], rank};
  const Tensor basis = Tensor::zeros(DType::f32, shape.basis());
  Stream& stream = compute_stream();
  if (method == Method::randomized) {
    Workspace workspace(top_subspace_workspace_bytes(shape));
    top_subspace(basis, G, shape, {}, key, workspace, stream);
  } else if (method == Method::exact) {
    Workspace workspace(exact_subspace_workspace_bytes(shape));
    exact_subspace(basis, G, shape, workspace, stream);
  } else {
    Workspace workspace(random_orthonormal_workspace_bytes(shape));
    random_orthonormal(basis, key, workspace, stream);
  }
  return basis;
}

Tensor projected(const Tensor& G, const Tensor& basis) {
  const LowRankShape shape{G.shape()[0], G.shape()[1], basis.shape()[0]};
  const Tensor R = Tensor::zeros(DType::f32, shape.projected());
  Workspace workspace(project_workspace_bytes(shape));
  project(R, G, basis, shape, workspace, compute_stream());
  return R;
}

Tensor projected_back(const Tensor& R, const Tensor& basis, std::int64_t a, std::int64_t b) {
  const LowRankShape shape{a, b, basis.shape()[0]};
  const Tensor G = Tensor::zeros(DType::f32, {a, b});
  Workspace workspace(project_back_workspace_bytes(shape));
  project_back(G, R, basis, shape, Accumulate::overwrite, workspace, compute_stream());
  return G;
}

void expect_orthonormal(const Tensor& basis) {
  for (std::int64_t i = 0; i < basis.shape()[0]; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      double product = 0.0;
      for (std::int64_t k = 0; k < basis.shape()[1]; ++k) {
        product += static_cast<double>(at(basis, i, k)) * static_cast<double>(at(basis, j, k));
      }
      ASSERT_NEAR(product, i == j ? 1.0 : 0.0, 1e-5) << i << " " << j;
    }
  }
}

void expect_signs(const Tensor& basis) {
  for (std::int64_t i = 0; i < basis.shape()[0]; ++i) {
    std::int64_t top = 0;
    for (std::int64_t k = 1; k < basis.shape()[1]; ++k) {
      top = std::abs(at(basis, i, k)) > std::abs(at(basis, i, top)) ? k : top;
    }
    EXPECT_GT(at(basis, i, top), 0.f) << i;
  }
}

bool same_bytes(const Tensor& x, const Tensor& y) {
  return x.size_bytes() == y.size_bytes() &&
         std::memcmp(x.bytes(), y.bytes(), static_cast<std::size_t>(x.size_bytes())) == 0;
}

struct Size {
  std::int64_t a, b, rank;
};
constexpr Size kSizes[] = {{1, 1, 1},
                           {1, 9, 1},
                           {9, 1, 1},
                           {2, 2, 2},
                           {5, 3, 2},
                           {3, 5, 3},
                           {33, 17, 9},
                           {17, 33, 17},
                           {65, 64, 64},
                           {40, 131, 7},
                           {131, 40, 7},
                           {100, 100, 1}};

TEST(LowRank, BasesAreOrthonormalWhateverTheMatrixHolds) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(std::to_string(s.a) + " " + std::to_string(s.b) + " " + std::to_string(s.rank));
    Tensor tiny = random_matrix(s.a, s.b), huge = random_matrix(s.a, s.b);
    for (std::int64_t i = 0; i < tiny.numel(); ++i) {
      tiny.data<float>()[i] *= 1e-25f;
      huge.data<float>()[i] *= 1e30f;
    }
    for (const Tensor& G : {random_matrix(s.a, s.b),
                            Tensor::zeros(DType::f32, {s.a, s.b}),
                            decaying_matrix(s.a, s.b, 2, .5f),
                            decaying_matrix(s.a, s.b, std::min(s.a, s.b), .1f),
                            tiny,
                            huge}) {
      for (const Method method : {Method::randomized, Method::exact}) {
        const Tensor basis = basis_of(G, s.rank, method);
        expect_orthonormal(basis);
        expect_signs(basis);
      }
    }
    expect_orthonormal(basis_of(tiny, s.rank, Method::random));
  }
}

TEST(LowRank, ProjectionKeepsLengthsBelowTheMatrix) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(std::to_string(s.a) + " " + std::to_string(s.b) + " " + std::to_string(s.rank));
    const Tensor G = random_matrix(s.a, s.b);
    for (const Method method : {Method::randomized, Method::exact, Method::random}) {
      const Tensor R = projected(G, basis_of(G, s.rank, method));
      EXPECT_EQ(R.shape(), (LowRankShape{s.a, s.b, s.rank}.projected()));
      EXPECT_LE(energy(R), energy(G) * (1 + 1e-5));
      if (s.rank == std::min(s.a, s.b)) {
        EXPECT_NEAR(energy(R), energy(G), energy(G) * 1e-5);
      } else {
        EXPECT_LT(energy(R), energy(G) * 0.99);
      }
    }
  }
}

/// Largest difference, against the largest entry of `want`.
double distance(const Tensor& got, const Tensor& want) {
  double top = 0.0, size = 0.0;
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    const double w = want.data<float>()[i];
    top = std::max(top, std::abs(static_cast<double>(got.data<float>()[i]) - w));
    size = std::max(size, std::abs(w));
  }
  return top / size;
}

TEST(LowRank, MatricesOfThatRankComeBack) {
  for (const std::int64_t rank : {1, 4}) {
    for (const auto& [a, b] : {std::pair{50, 31}, {31, 50}, {64, 64}, {7, 200}}) {
      for (const float size : {1.f, 1e-33f, 1e30f}) {
        const Tensor G = decaying_matrix(a, b, rank, 1.f);
        for (std::int64_t i = 0; i < G.numel(); ++i) {
          G.data<float>()[i] *= size;
        }
        for (const Method method : {Method::randomized, Method::exact}) {
          const Tensor basis = basis_of(G, rank, method);
          EXPECT_LT(distance(projected_back(projected(G, basis), basis, a, b), G), 1e-5) << size;
        }
      }
    }
  }
}

TEST(LowRank, OneLookAtATinyMatrixOfThatRankIsEnough) {
  const Tensor G = decaying_matrix(30, 20, 2, 1.f);
  for (std::int64_t i = 0; i < G.numel(); ++i) {
    G.data<float>()[i] *= 1e-33f;
  }
  const LowRankShape shape{30, 20, 2};
  const RandomizedSettings settings{.oversample = 0, .power_iterations = 0};
  const Tensor basis = Tensor::zeros(DType::f32, shape.basis());
  Workspace workspace(top_subspace_workspace_bytes(shape, settings));
  top_subspace(basis, G, shape, settings, kKey, workspace, compute_stream());
  EXPECT_LT(distance(projected_back(projected(G, basis), basis, 30, 20), G), 1e-5);
}

TEST(LowRank, ProjectBackAdds) {
  const Tensor G = random_matrix(20, 30), basis = basis_of(G, 5, Method::exact);
  const Tensor R = projected(G, basis), once = projected_back(R, basis, 20, 30);
  const Tensor twice = projected_back(R, basis, 20, 30);
  const LowRankShape shape{20, 30, 5};
  Workspace workspace(project_back_workspace_bytes(shape));
  project_back(twice, R, basis, shape, Accumulate::add, workspace, compute_stream());
  for (std::int64_t i = 0; i < once.numel(); ++i) {
    EXPECT_NEAR(twice.data<float>()[i], 2.f * once.data<float>()[i], 1e-6f);
  }
}

TEST(LowRank, RandomizedBasisHoldsTheEnergyOfTheExactOne) {
  // Without decay there is least to find: the hardest case of a range finder.
  for (const float decay : {1.f, .97f, .8f, .3f}) {
    for (const auto& [a, b] : {std::pair{200, 150}, {120, 250}}) {
      const Tensor G = decaying_matrix(a, b, 100, decay);
      const double exact = energy(projected(G, basis_of(G, 20, Method::exact)));
      const double found = energy(projected(G, basis_of(G, 20, Method::randomized)));
      EXPECT_LE(found, exact * (1 + 1e-5));
      EXPECT_GE(found, exact * .95) << decay;
    }
  }
}

/// The strongest direction first: what one direction catches falls along the basis.
TEST(LowRank, DirectionsAreOrderedByTheirEnergy) {
  const Tensor G = decaying_matrix(90, 70, 30, .7f);
  for (const Method method : {Method::randomized, Method::exact}) {
    const Tensor basis = basis_of(G, 8, method);
    double before = std::numeric_limits<double>::infinity();
    for (std::int64_t r = 0; r < 8; ++r) {
      const double caught = energy(projected(G, basis.rows(r, r + 1)));
      EXPECT_LT(caught, before);
      before = caught;
    }
  }
}

TEST(LowRank, SignsFollowTheFirstLargestEntry) {
  // Both entries of the direction are equal in magnitude: the one of lower index decides.
  for (const float sign : {1.f, -1.f}) {
    const Tensor G = Tensor::zeros(DType::f32, {4, 3});
    for (std::int64_t i = 0; i < 4; ++i) {
      at(G, i, 1) = -sign;
      at(G, i, 2) = sign;
    }
    const Tensor basis = basis_of(G, 1, Method::exact);
    EXPECT_FLOAT_EQ(at(basis, 0, 0), 0.f);
    EXPECT_FLOAT_EQ(at(basis, 0, 1), std::sqrt(.5f));
    EXPECT_FLOAT_EQ(at(basis, 0, 2), -std::sqrt(.5f));
  }
}

TEST(LowRank, BitsDoNotDependOnThreads) {
  const int before = thread_count();
  for (const auto& [a, b] : {std::pair{300, 210}, {210, 300}}) {
    const Tensor G = decaying_matrix(a, b, 60, .9f);
    const LowRankShape shape{a, b, 40};
    std::vector<Tensor> first;
    for (const int threads : {1, 2, 3}) {
      set_thread_count(threads);
      std::vector<Tensor> now;
      for (const Method method : {Method::randomized, Method::exact, Method::random}) {
        now.push_back(basis_of(G, 40, method));
      }
      now.push_back(Tensor::zeros(DType::f32, shape.basis()));
      random_projection(now.back(), kKey, compute_stream());
      now.push_back(projected(G, now[0]));
      now.push_back(projected_back(now.back(), now[0], a, b));
      if (first.empty()) {
        first = now;
      }
      for (std::size_t i = 0; i < now.size(); ++i) {
        EXPECT_TRUE(same_bytes(first[i], now[i])) << i << " at " << threads;
      }
    }
  }
  set_thread_count(before);
}

TEST(LowRank, SquaresComeWithTheProjection) {
  const int threads_before = thread_count();
  const cpu::IsaLevel best = cpu::isa_level();
  for (const std::int64_t rank : {1, 2, 3, 40}) {
    for (const auto& [a, b] : {std::pair{300, 41}, {41, 300}, {70, 530}, {530, 70}}) {
      const LowRankShape shape{a, b, rank};
      const Tensor G = random_matrix(a, b), basis = random_matrix(rank, shape.short_side(), 2);
      std::vector<double> expected(static_cast<std::size_t>(shape.long_side()), 0.0), first;
      for (std::int64_t i = 0; i < a; ++i) {
        for (std::int64_t j = 0; j < b; ++j) {
          const double value = at(G, i, j);
          expected[static_cast<std::size_t>(shape.right() ? i : j)] += value * value;
        }
      }
      for (const cpu::IsaLevel level : {cpu::IsaLevel::base, cpu::IsaLevel::avx2, best}) {
        cpu::force_isa_level(std::min(level, best));
        for (const int threads : {1, 3}) {
          set_thread_count(threads);
          std::vector<double> squares(expected.size(), -1.0);
          const Tensor R = Tensor::zeros(DType::f32, shape.projected());
          Workspace workspace(project_workspace_bytes(shape));
          project(R, G, basis, shape, workspace, compute_stream(), squares.data());
          EXPECT_TRUE(same_bytes(R, projected(G, basis)));
          for (std::size_t i = 0; i < expected.size(); ++i) {
            ASSERT_NEAR(squares[i], expected[i], 1e-13 * expected[i]);
          }
          first = first.empty() ? squares : first;
          EXPECT_EQ(squares, first) << a << " " << b << " rank " << rank;
        }
      }
    }
  }
  cpu::force_isa_level(best);
  set_thread_count(threads_before);
}

TEST(LowRank, RandomBasesDependOnTheirKeyAlone) {
  const Tensor G = random_matrix(40, 60);
  const Tensor basis = basis_of(G, 8, Method::random);
  EXPECT_TRUE(same_bytes(basis, basis_of(random_matrix(40, 60, 2), 8, Method::random)));
  RandomKey other = kKey;
  other.a += 1;
  EXPECT_FALSE(same_bytes(basis, basis_of(G, 8, Method::random, other)));
  EXPECT_FALSE(
      same_bytes(basis_of(Tensor::zeros(DType::f32, {40, 60}), 8, Method::randomized),
                 basis_of(Tensor::zeros(DType::f32, {40, 60}), 8, Method::randomized, other)));
}

TEST(LowRank, RandomProjectionIsNormalWithVarianceOneOverRank) {
  const std::int64_t rank = 16, n = 1 << 14;
  const Tensor basis = Tensor::zeros(DType::f32, {rank, n});
  random_projection(basis, kKey, compute_stream());
  double moment[5] = {};
  for (std::int64_t i = 0; i < rank * n; ++i) {
    const double x = std::sqrt(16.0) * static_cast<double>(basis.data<float>()[i]);
    for (int p = 1; p <= 4; ++p) {
      moment[p] += std::pow(x, p) / static_cast<double>(rank * n);
    }
  }
  // Five standard errors of 2^18 numbers.
  const double error = 5.0 / 512.0;
  EXPECT_NEAR(moment[1], 0.0, error);
  EXPECT_NEAR(moment[2], 1.0, error * std::sqrt(2.0));
  EXPECT_NEAR(moment[3], 0.0, error * std::sqrt(15.0));
  EXPECT_NEAR(moment[4], 3.0, error * std::sqrt(96.0));
}

TEST(LowRank, RefusesWhatCannotBe) {
  tests::expect_error(Errc::config, {"(8, 5)", "1 to 5", "got 6", "use 5"}, [] {
    LowRankShape{8, 5, 6}.validate();
  });
  tests::expect_error(Errc::config, {"got 0", "use 1"}, [] { LowRankShape{8, 5, 0}.validate(); });
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const Tensor G = random_matrix(8, 5);
    at(G, 3, 2) = bad;
    for (const Method method : {Method::randomized, Method::exact}) {
      tests::expect_error(Errc::numerics, {"finite"}, [&] { basis_of(G, 2, method); });
    }
  }
}

TEST(LowRank, WorkspaceIsNotLargerThanNeeded) {
  const Tensor G = random_matrix(40, 30);
  const LowRankShape shape{40, 30, 6};
  const Tensor basis = Tensor::zeros(DType::f32, shape.basis());
  Workspace top(top_subspace_workspace_bytes(shape) - 64);
  EXPECT_THROW(top_subspace(basis, G, shape, {}, kKey, top, compute_stream()), Error);
  Workspace exact(exact_subspace_workspace_bytes(shape) - 64);
  EXPECT_THROW(exact_subspace(basis, G, shape, exact, compute_stream()), Error);
}

}  // namespace
}  // namespace strata
