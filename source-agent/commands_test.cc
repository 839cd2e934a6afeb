#include "source-agent/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <sstream>

#include "common/base/error.h"
#include "common/model/phase_table.h"
#include "common/wire/key_folder.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

TEST(RunStates, PrintsEachForm) {
  const auto printed = [](MigrateOptions::StatesForm form) {
    MigrateOptions options;
    options.states_form = form;
    std::ostringstream out;
    EXPECT_EQ(run_states(options, out), 0);
    return out.str();
  };
  EXPECT_EQ(printed(MigrateOptions::StatesForm::kText), print_phase_table());
  EXPECT_EQ(printed(MigrateOptions::StatesForm::kGraph), print_phase_graph());
  EXPECT_EQ(printed(MigrateOptions::StatesForm::kDocument), print_phase_document());
}

TEST(RunKeys, MakesAnAuthorityAndAFolder) {
  char name[] = "/tmp/godwit-commands-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string base = name;
  MigrateOptions options;
  options.command = MigrateOptions::Command::kKeysInit;
  options.keys_dir = base + "/ca";
  std::ostringstream out;
  EXPECT_EQ(run_keys(options, out), 0);
  options.command = MigrateOptions::Command::kKeysIssue;
  options.host_name = "beta";
  options.role = "destination";
  options.out_dir = base + "/beta";
  EXPECT_EQ(run_keys(options, out), 0);
  EXPECT_THAT(out.str(), HasSubstr(base + "/ca/ca.key"));
  EXPECT_THAT(out.str(), HasSubstr(base + "/beta"));
  EXPECT_EQ(load_keys(base + "/beta", "destination").host_name, "beta");
  std::filesystem::remove_all(base);
}

}  // namespace
}  // namespace godwit
