// Which rank a process is, from what launchers set.
#include "driver/tiles/launch.h"

#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "driver/device.h"
#include "driver/errors.h"

namespace ptyle::driver {
namespace {

using Variables = std::map<std::string, std::string>;

Launch launch_with(const Variables& variables) {
  return find_launch([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

std::string refusal(const Variables& variables) {
  try {
    launch_with(variables);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Launch, OneRankWithoutALauncher) {
  const Launch launch = launch_with({});
  EXPECT_EQ(launch.size, 1);
  EXPECT_EQ(launch.words(), "one rank");
  // An interactive shell inside an allocation starts one process, whatever the allocation holds.
  EXPECT_EQ(launch_with({{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}}).size, 1);
  EXPECT_EQ(launch_with({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).size, 1);
}

TEST(Launch, TorchrunsStoreIsItsAgents) {
  const Launch launch = launch_with({{"RANK", "3"},
                                     {"WORLD_SIZE", "8"},
                                     {"LOCAL_RANK", "1"},
                                     {"MASTER_ADDR", "node7"},
                                     {"MASTER_PORT", "29500"},
                                     {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                     {"TORCHELASTIC_RESTART_COUNT", "2"}});
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.size, 8);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_TRUE(launch.agent_store);
  EXPECT_EQ(launch.prefix, "/worker/attempt_2");
  EXPECT_EQ(launch.words(),
            "rank 3 of 8 (local rank 1), from RANK and WORLD_SIZE; meeting at node7:29500 "
            "(torchrun's store)");
}

TEST(Launch, SlurmNamesItsFirstHostAndAPortOfTheJob) {
  Variables step{{"SLURM_PROCID", "5"},    {"SLURM_STEP_NUM_TASKS", "6"},
                 {"SLURM_LOCALID", "1"},   {"SLURM_STEP_ID", "0"},
                 {"SLURM_JOB_ID", "4711"}, {"SLURM_STEP_NODELIST", "node[003-007,9],login"}};
  const Launch launch = launch_with(step);
  EXPECT_EQ(launch.rank, 5);
  EXPECT_EQ(launch.address, "node003");
  EXPECT_GE(launch.port, 20000);
  EXPECT_LT(launch.port, 40000);
  step.insert_or_assign("SLURM_PROCID", std::string("0"));
  EXPECT_EQ(launch_with(step).port, launch.port);
  step["SLURM_JOB_ID"] = "4712";
  EXPECT_NE(launch_with(step).port, launch.port);
  step["SLURM_STEP_NODELIST"] = "alpha,beta";
  EXPECT_EQ(launch_with(step).address, "alpha");
  step["SLURM_STEP_NODELIST"] = "gamma";
  EXPECT_EQ(launch_with(step).address, "gamma");
  step["MASTER_ADDR"] = "delta";
  step["MASTER_PORT"] = "1234";
  EXPECT_EQ(launch_with(step).address, "delta");
  EXPECT_EQ(launch_with(step).port, 1234);
}

TEST(Launch, OpenMpiOnOneHostNeedsNoAddress) {
  Variables variables{{"OMPI_COMM_WORLD_RANK", "1"},
                      {"OMPI_COMM_WORLD_SIZE", "2"},
                      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                      {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                      {"PMIX_NAMESPACE", "prterun-1"}};
  const Launch launch = launch_with(variables);
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.source, "Open MPI");
  EXPECT_EQ(launch.address, "127.0.0.1");
  variables.insert_or_assign("OMPI_COMM_WORLD_LOCAL_SIZE", std::string("1"));  // on two hosts
  EXPECT_NE(refusal(variables).find("MASTER_ADDR: must name the host of rank 0"),
            std::string::npos);
  EXPECT_EQ(launch_with(
                {{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "5"}})
                .size,
            3);
}

TEST(Launch, FindsTheAddressThatOthersSee) {
  EXPECT_EQ(own_address("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(own_address("localhost").substr(0, 4).find_first_not_of("127.:"), std::string::npos);
  EXPECT_EQ(own_address("no.such.host.invalid"), "");
}

TEST(Launch, SaysWhatIsWrong) {
  const auto has = [](const Variables& variables, const std::string& words) {
    const std::string text = refusal(variables);
    EXPECT_NE(text.find(words), std::string::npos) << text;
  };
  has({{"RANK", "0"}}, "WORLD_SIZE: must be set where RANK is");
  has({{"WORLD_SIZE", "2"}}, "RANK: must be set where WORLD_SIZE is");
  has({{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK: must be an integer from 0 to 1, got \"2\"");
  has({{"RANK", "0"}, {"WORLD_SIZE", "-1"}}, "WORLD_SIZE: must be an integer from 1");
  has({{"RANK", "0x"}, {"WORLD_SIZE", "2"}}, "got \"0x\"");
  has({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}, "MASTER_PORT: must be a free");
  has({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "70000"}}, "MASTER_PORT: must be an");
}

TEST(Device, RanksOfAMachineTakeItsGpusInTurn) {
  using Numbers = std::vector<std::int64_t>;
  EXPECT_EQ(gpus_of_ranks({5, 5, 5, 5}, {4, 4, 4, 4}), (Numbers{0, 1, 2, 3}));
  // ranks of two machines, mixed; more ranks than GPUs
  EXPECT_EQ(gpus_of_ranks({5, 9, 5, 9, 9}, {2, 2, 2, 2, 2}), (Numbers{0, 0, 1, 1, 0}));
  // a launcher that shows each rank one GPU
  EXPECT_EQ(gpus_of_ranks({5, 5, 5}, {1, 1, 1}), (Numbers{0, 0, 0}));
}

}  // namespace
}  // namespace ptyle::driver
