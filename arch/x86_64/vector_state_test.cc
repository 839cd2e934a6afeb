#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

constexpr std::size_t kOwnersMask = 464;
constexpr std::size_t kInUse = 512;
constexpr std::size_t kHeaderEnd = 576;
constexpr std::uint64_t kBase = 3;
constexpr std::uint64_t kProtectionKeys = 1 << 9;
constexpr std::uint64_t kNobodysComponent = std::uint64_t{1} << 50;

std::uint64_t load(const std::vector<std::byte>& state, std::size_t at) {
  std::uint64_t value = 0;
  std::memcpy(&value, state.data() + at, sizeof(value));
  return value;
}

// A state whose legacy area can be recognized.
std::vector<std::byte> state_of(std::size_t bytes, std::uint64_t owners, std::uint64_t used) {
  std::vector<std::byte> state(bytes);
  std::fill_n(state.begin(), kOwnersMask, std::byte{0x5a});
  if (bytes < kHeaderEnd) return state;
  std::memcpy(state.data() + kOwnersMask, &owners, sizeof(owners));
  std::memcpy(state.data() + kInUse, &used, sizeof(used));
  return state;
}

TEST(FitVectorState, LeavesItsOwnAsItIs) {
  const std::uint64_t mask = vector_state_mask();
  std::vector<std::byte> state = state_of(vector_state_bytes(), mask, mask & 7);
  const std::vector<std::byte> before = state;
  EXPECT_EQ(fit_vector_state(state), std::vector<std::string>{});
  EXPECT_EQ(state, before);
}

TEST(FitVectorState, MakesASmallerOneLarger) {
  std::vector<std::byte> state = state_of(kHeaderEnd, kBase, kBase);
  EXPECT_EQ(fit_vector_state(state), std::vector<std::string>{});
  ASSERT_EQ(state.size(), vector_state_bytes());
  EXPECT_TRUE(std::all_of(state.begin(), state.begin() + kOwnersMask,
                          [](std::byte byte) { return byte == std::byte{0x5a}; }));
  EXPECT_EQ(load(state, kInUse) & ~kProtectionKeys, kBase);
  EXPECT_EQ(load(state, kOwnersMask), vector_state_mask());
}

TEST(FitVectorState, GivesOneWithoutAHeaderOne) {
  std::vector<std::byte> state = state_of(512, 0, 0);
  EXPECT_EQ(fit_vector_state(state), std::vector<std::string>{});
  ASSERT_EQ(state.size(), vector_state_bytes());
  EXPECT_EQ(load(state, kInUse) & ~kProtectionKeys, kBase);
}

TEST(FitVectorState, NamesWhatWasInUseAndIsNotHere) {
  std::vector<std::byte> state =
      state_of(vector_state_bytes() + 4096, kBase | kNobodysComponent, kBase | kNobodysComponent);
  EXPECT_EQ(fit_vector_state(state), std::vector<std::string>{"component 50"});
  EXPECT_EQ(state.size(), vector_state_bytes());
  EXPECT_EQ(load(state, kInUse) & kNobodysComponent, 0U);
}

TEST(FitVectorState, ForgetsWhatWasNotInUse) {
  std::vector<std::byte> state = state_of(vector_state_bytes(), kBase | kNobodysComponent, kBase);
  EXPECT_EQ(fit_vector_state(state), std::vector<std::string>{});
}

TEST(ForgetUnusedComponents, ThoseWithTheirFirstValues) {
  const auto components = vector_components();
  const std::uint64_t mask = vector_state_mask();
  std::vector<std::byte> state = state_of(vector_state_bytes(), mask, mask);
  forget_unused_components(state);
  EXPECT_EQ(load(state, kInUse), mask & (kBase | kProtectionKeys));
  for (const VectorComponent& component : components) {
    std::vector<std::byte> used = state_of(vector_state_bytes(), mask, mask);
    used[component.offset + component.bytes - 1] = std::byte{1};
    forget_unused_components(used);
    EXPECT_EQ(load(used, kInUse), (mask & (kBase | kProtectionKeys)) | 1UL << component.number)
        << vector_component_name(component.number);
  }
}

TEST(ForgetUnusedComponents, NoneWhereThereIsNoHeader) {
  std::vector<std::byte> state = state_of(512, 0, 0);
  const std::vector<std::byte> before = state;
  forget_unused_components(state);
  EXPECT_EQ(state, before);
}

TEST(VectorComponents, StandBehindTheHeaderAndApart) {
  std::size_t end = kHeaderEnd;
  auto components = vector_components();
  std::sort(components.begin(), components.end(),
            [](const auto& left, const auto& right) { return left.offset < right.offset; });
  for (const VectorComponent& component : components) {
    EXPECT_GE(component.offset, end) << vector_component_name(component.number);
    EXPECT_GT(component.bytes, 0U);
    end = component.offset + component.bytes;
  }
  EXPECT_LE(end, vector_state_bytes());
  EXPECT_EQ(vector_component_name(2), "AVX");
}

}  // namespace
}  // namespace godwit::arch
