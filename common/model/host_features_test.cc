#include "common/model/host_features.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <link.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "common/base/error.h"
#include "common/kernel/proc_maps.h"

namespace godwit {
namespace {

std::vector<std::string> ids(const Findings& findings) {
  std::vector<std::string> names;
  for (const auto& finding : findings) {
    names.push_back((finding.warning() ? "warning:" : "") + finding.id());
  }
  return names;
}
using Ids = std::vector<std::string>;

std::vector<std::byte> own_vdso() {
  for (const MapsLine& line : read_maps(::getpid())) {
    if (line.path != "[vdso]") continue;
    const auto* start = reinterpret_cast<const std::byte*>(line.range.start);
    return {start, start + line.range.bytes()};
  }
  return {};
}

proto::HostFeatures example() {
  proto::HostFeatures features;
  features.set_host_name("alpha");
  features.set_kernel_release("6.18.0");
  features.set_architecture("x86_64");
  features.set_vector_state_mask(0x602e7);
  features.set_vector_state_bytes(11008);
  features.set_vdso_hash(7);
  features.set_page_bytes(4096);
  return features;
}

TEST(ReadHostFeatures, TellsAboutThisHost) {
  const proto::HostFeatures features = read_host_features();
  EXPECT_FALSE(features.host_name().empty());
  EXPECT_FALSE(features.kernel_release().empty());
  EXPECT_FALSE(features.architecture().empty());
  EXPECT_NE(features.vdso_hash(), 0U);
  EXPECT_NE(features.vector_state_bytes(), 0U);
  EXPECT_EQ(features.page_bytes(), static_cast<std::uint32_t>(::getpagesize()));
  EXPECT_GT(features.pid_max(), 300U);
  Findings findings;
  compare_features(features, read_host_features(), ProcessorCheck::kRequire, findings);
  EXPECT_TRUE(findings.empty());
}

TEST(HashVdso, LeavesTheSlackOutAndNothingElse) {
  std::vector<std::byte> image = own_vdso();
  ASSERT_FALSE(image.empty());
  const std::uint64_t hash = hash_vdso(image);
  EXPECT_EQ(hash, read_host_features().vdso_hash());
  image.resize(image.size() + 4096, std::byte{0x55});
  EXPECT_EQ(hash_vdso(image), hash);
  image[image.size() / 4] ^= std::byte{1};
  EXPECT_NE(hash_vdso(image), hash);
}

TEST(HashVdso, RefusesWhatIsNoImage) {
  std::vector<std::byte> image = own_vdso();
  EXPECT_THROW(hash_vdso({}), Error);
  EXPECT_THROW(hash_vdso(std::span(image).first(10)), Error);
  EXPECT_THROW(hash_vdso(std::span(image).first(200)), Error);
  std::vector<std::byte> wild = image;
  const std::uint64_t far = ~0ULL - 8;
  std::memcpy(wild.data() + offsetof(ElfW(Ehdr), e_phoff), &far, sizeof(far));
  EXPECT_THROW(hash_vdso(wild), Error);
  image[0] = std::byte{0};
  EXPECT_THROW(hash_vdso(image), Error);
}

TEST(CompareFeatures, RefusesEachLackByName) {
  const proto::HostFeatures source = example();
  const auto with = [&](auto change) {
    proto::HostFeatures destination = example();
    change(destination);
    Findings findings;
    compare_features(source, destination, ProcessorCheck::kRequire, findings);
    return ids(findings);
  };
  using Features = proto::HostFeatures;
  EXPECT_EQ(with([](Features&) {}), Ids{});
  EXPECT_EQ(with([](Features& f) { f.set_architecture("aarch64"); }), Ids{"architecture-differs"});
  EXPECT_EQ(with([](Features& f) { f.set_page_bytes(65536); }), Ids{"page-size-differs"});
  EXPECT_EQ(with([](Features& f) { f.set_vector_state_mask(0xe7); }),
            Ids{"processor-state-missing"});
  EXPECT_EQ(with([](Features& f) { f.set_vector_state_bytes(2696); }),
            Ids{"processor-state-differs"});
  EXPECT_EQ(with([](Features& f) { f.set_vdso_hash(8); }), Ids{"vdso-differs"});
  EXPECT_EQ(with([](Features& f) { f.set_kernel_release("6.12.1"); }),
            Ids{"warning:kernel-differs"});
  // More than the source has is fine.
  EXPECT_EQ(with([](Features& f) {
              f.set_vector_state_mask(0xfffff);
              f.set_vector_state_bytes(16384);
            }),
            Ids{});
}

proto::HostFeatures with_sets(std::initializer_list<const char*> sets) {
  proto::HostFeatures features = example();
  for (const char* set : sets) features.add_instruction_sets(set);
  return features;
}

Findings compared(const proto::HostFeatures& source, const proto::HostFeatures& destination,
                  ProcessorCheck check = ProcessorCheck::kRequire) {
  Findings findings;
  compare_features(source, destination, check, findings);
  return findings;
}

TEST(CompareFeatures, NamesTheInstructionSetsThatTheDestinationLacks) {
  const proto::HostFeatures rich = with_sets({"sse2", "avx2", "fma", "bmi2"});
  proto::HostFeatures poor = with_sets({"sse2"});
  poor.set_vector_state_mask(0x3);  // told by the names already
  const Findings refused = compared(rich, poor);
  ASSERT_EQ(ids(refused), Ids{"instruction-sets-missing"});
  EXPECT_NE(refused[0].problem().find("lacks avx2, fma, bmi2, which"), std::string::npos)
      << refused[0].problem();
  EXPECT_NE(refused[0].way_out().find("--cpu ignore"), std::string::npos);
  EXPECT_EQ(ids(compared(rich, poor, ProcessorCheck::kIgnore)),
            Ids{"warning:instruction-sets-missing"});
  EXPECT_EQ(ids(compared(poor, rich)), Ids{});
  EXPECT_EQ(ids(compared(rich, rich)), Ids{});
}

TEST(CompareFeatures, WarnsOfLargerSignalFrames) {
  const proto::HostFeatures rich = with_sets({"avx2", "pku"});
  proto::HostFeatures poor = with_sets({"avx2"});
  poor.set_vector_state_mask(0x3);
  poor.set_vector_state_bytes(rich.vector_state_bytes() / 2);
  EXPECT_EQ(ids(compared(rich, poor)), Ids{"instruction-sets-missing"});
  EXPECT_EQ(ids(compared(rich, poor, ProcessorCheck::kIgnore)),
            (Ids{"warning:instruction-sets-missing", "warning:signal-frames-cut"}));
  EXPECT_EQ(ids(compared(poor, rich, ProcessorCheck::kIgnore)), Ids{});
}

TEST(CompareFeatures, RefusesMoreRegistersThanALibraryHasRoomFor) {
  proto::HostFeatures small = with_sets({"xsave", "avx"});
  small.set_vector_state_mask(0x7);
  const proto::HostFeatures large = with_sets({"xsave", "avx", "xsavec"});
  EXPECT_EQ(ids(compared(small, large)), Ids{"register-room-short"});
  EXPECT_EQ(ids(compared(small, large, ProcessorCheck::kIgnore)),
            Ids{"warning:register-room-short"});
  proto::HostFeatures keys = large;
  keys.set_vector_state_mask(0x207);  // these are not saved there
  EXPECT_EQ(ids(compared(small, keys)), Ids{});
  small.add_instruction_sets("xsavec");
  EXPECT_EQ(ids(compared(small, large)), Ids{});
}

TEST(CompareFeatures, WhatAnOlderReleaseDidNotTellIsNotCompared) {
  EXPECT_EQ(ids(compared(with_sets({"avx2"}), example())), Ids{});
  EXPECT_EQ(ids(compared(example(), with_sets({"avx2"}))), Ids{});
}

TEST(CompareFeatures, RegisterStateElsewhereIsRefusedWhateverIsIgnored) {
  const auto with_masks_at = [](std::uint32_t offset) {
    proto::HostFeatures features = example();
    proto::VectorComponent& component = *features.add_vector_components();
    component.set_number(5);
    component.set_offset(offset);
    component.set_bytes(64);
    return features;
  };
  EXPECT_EQ(ids(compared(with_masks_at(1088), with_masks_at(1088))), Ids{});
  for (const ProcessorCheck check : {ProcessorCheck::kRequire, ProcessorCheck::kIgnore}) {
    const Findings findings = compared(with_masks_at(1088), with_masks_at(832), check);
    ASSERT_EQ(ids(findings), Ids{"processor-state-differs"});
    EXPECT_NE(findings[0].problem().find("64 bytes at 832 there, 64 bytes at 1088 here"),
              std::string::npos)
        << findings[0].problem();
  }
}

}  // namespace
}  // namespace godwit
