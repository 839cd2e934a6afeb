// A small value for each page of an address space, zero where none was set: groups of 512 pages,
// made when the first of them gets a value. Quick for pages in order of their addresses.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>

#include "common/base/page_range.h"

namespace godwit {

template <typename Value>
class PageValues {
 public:
  // Sets the value of a page, returns the one before.
  Value exchange(Address page, Value value) {
    Group* group = find(page / kPageSize / kGroupPages);
    if (group == nullptr) {
      if (value == Value{}) return Value{};
      last_ = group = groups_.emplace(last_number_, std::make_unique<Group>()).first->second.get();
    }
    return std::exchange((*group)[page / kPageSize % kGroupPages], value);
  }

 private:
  static constexpr std::uint64_t kGroupPages = 512;
  using Group = std::array<Value, kGroupPages>;

  Group* find(std::uint64_t number) {
    if (last_ != nullptr && last_number_ == number) return last_;
    const auto found = groups_.find(number);
    last_number_ = number;
    last_ = found == groups_.end() ? nullptr : found->second.get();
    return last_;
  }

  std::unordered_map<std::uint64_t, std::unique_ptr<Group>> groups_;
  std::uint64_t last_number_ = 0;
  Group* last_ = nullptr;  // the group of last_number_, if there is one
};

}  // namespace godwit
