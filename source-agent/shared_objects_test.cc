#include "source-agent/shared_objects.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace godwit {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kPages = 8;

// Of this process, as a description would name it.
class SharedObjectsTest : public ::testing::Test {
 protected:
  SharedObjectsTest() {
    proto::Mapping& area = *mappings_.add_areas();
    area.set_start(page(0).start);
    area.set_end(page(kPages).start);
    area.set_backing(proto::BACKING_SHARED_ANONYMOUS);
    area.set_shared_object(1);
  }
  ~SharedObjectsTest() override { ::munmap(memory_, kPages * kPageSize); }
  PageRange page(std::uint64_t number) const {
    const auto start = reinterpret_cast<Address>(memory_) + number * kPageSize;
    return {start, start + kPageSize};
  }
  // Longer ago than the kernel's clock is coarse.
  static void wait() { std::this_thread::sleep_for(std::chrono::milliseconds(50)); }

  std::byte* memory_ = static_cast<std::byte*>(::mmap(
      nullptr, kPages* kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  proto::Mappings mappings_;
  SharedObjects objects_{::getpid()};
};

TEST_F(SharedObjectsTest, WhatTheObjectHoldsExists) {
  memory_[2 * kPageSize] = std::byte{1};
  EXPECT_THAT(objects_.look(mappings_).existing, ElementsAre(page(2)));
}

TEST_F(SharedObjectsTest, LargeOnesAreNotSentAgainForEachWrite) {
  constexpr std::uint64_t kBytes = SharedObjects::kSmallBytes + kPageSize;
  auto* large = static_cast<std::byte*>(
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const auto start = reinterpret_cast<Address>(large);
  mappings_.mutable_areas(0)->set_start(start);
  mappings_.mutable_areas(0)->set_end(start + kBytes);
  objects_.look(mappings_);
  *large = std::byte{1};
  const SharedPages pages = objects_.look(mappings_);
  EXPECT_THAT(pages.distrusted, IsEmpty());
  EXPECT_THAT(pages.looked_at, ElementsAre(PageRange{start, start + kBytes}));
  EXPECT_THAT(pages.existing, ElementsAre(PageRange{start, start + kPageSize}));
  ::munmap(large, kBytes);
}

TEST_F(SharedObjectsTest, RemovedPagesAre) {
  memory_[3 * kPageSize] = std::byte{1};
  wait();
  objects_.look(mappings_);
  ASSERT_EQ(::madvise(memory_ + 3 * kPageSize, kPageSize, MADV_REMOVE), 0);
  const SharedPages pages = objects_.look(mappings_);
  EXPECT_THAT(pages.distrusted, ElementsAre(PageRange{page(0).start, page(kPages).start}));
  EXPECT_THAT(pages.existing, IsEmpty());
  wait();
  objects_.look(mappings_);
  EXPECT_THAT(objects_.look(mappings_).distrusted, IsEmpty());
}

}  // namespace
}  // namespace godwit
