#include "parallel/launcher.h"

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace strata::parallel {
namespace {

/// The launchers' variables are these alone.
class Launcher : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* variable : {"OMPI_COMM_WORLD_SIZE",
                                 "OMPI_COMM_WORLD_LOCAL_RANK",
                                 "OMPI_COMM_WORLD_LOCAL_SIZE",
                                 "PMIX_RANK",
                                 "PMI_RANK",
                                 "PMI_SIZE",
                                 "SLURM_NTASKS"}) {
      unsetenv(variable);
    }
  }
  static void set(const std::vector<std::pair<const char*, const char*>>& variables) {
    for (const auto& [name, value] : variables) {
      setenv(name, value, 1);
    }
  }
  void TearDown() override { SetUp(); }
};

TEST_F(Launcher, NoneIsOneRank) {
  EXPECT_FALSE(under_mpi_launcher());
  EXPECT_EQ(ranks_of_launcher(), 1);
  EXPECT_FALSE(local_place_from_launcher());
}

TEST_F(Launcher, ABatchScriptIsNotARank) {
  set({{"SLURM_NTASKS", "4"}});
  EXPECT_FALSE(under_mpi_launcher());
  EXPECT_EQ(ranks_of_launcher(), 1);
}

TEST_F(Launcher, MpirunTellsAllOfIt) {
  set({{"OMPI_COMM_WORLD_SIZE", "6"},
       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
       {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"},
       {"SLURM_NTASKS", "4"}});
  EXPECT_TRUE(under_mpi_launcher());
  EXPECT_EQ(ranks_of_launcher(), 6);
  ASSERT_TRUE(local_place_from_launcher());
  EXPECT_EQ(local_place_from_launcher()->rank, 1);
  EXPECT_EQ(local_place_from_launcher()->size, 3);
}

TEST_F(Launcher, SrunTellsTheNumberOfItsTasks) {
  set({{"PMIX_RANK", "2"}, {"SLURM_NTASKS", "4"}});
  EXPECT_EQ(ranks_of_launcher(), 4);
}

TEST_F(Launcher, ANumberThatIsNoneIsOne) {
  set({{"OMPI_COMM_WORLD_SIZE", "many"}});
  EXPECT_EQ(ranks_of_launcher(), 1);
}

}  // namespace
}  // namespace strata::parallel
