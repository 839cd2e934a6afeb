#include "common/remote/syscall_batch.h"

#include <fmt/format.h>

#include <utility>

#include "arch/arch.h"
#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::size_t kDataAlignment = 16;

std::string print_argument(const Argument& argument) {
  switch (argument.kind()) {
    case Argument::Kind::kRow:
      return fmt::format("row#{}", argument.value());
    case Argument::Kind::kData:
      return fmt::format("data+{}", argument.value());
    case Argument::Kind::kValue:
      break;
  }
  const auto value = static_cast<std::int64_t>(argument.value());
  return value > -4096 && value < 4096 ? fmt::format("{}", value)
                                       : fmt::format("{:#x}", argument.value());
}

}  // namespace

RowResult SyscallBatch::add(long number, std::initializer_list<Argument> arguments,
                            std::string object) {
  if (arguments.size() > kArguments) fail("{} has too many arguments", syscall_name(number));
  for (const Argument& argument : arguments) {
    if (argument.kind() == Argument::Kind::kRow && argument.value() >= rows_.size()) {
      fail("{} refers to the result of row {}, which is not before it", syscall_name(number),
           argument.value());
    }
  }
  Row row;
  row.number = static_cast<std::int32_t>(number);
  row.first_argument = static_cast<std::uint32_t>(arguments_.size());
  row.argument_count = static_cast<std::uint8_t>(arguments.size());
  arguments_.insert(arguments_.end(), arguments);
  if (!object.empty()) {
    objects_.push_back(std::move(object));
    row.object = static_cast<std::uint32_t>(objects_.size());
  }
  rows_.push_back(row);
  return {static_cast<std::uint32_t>(rows_.size() - 1)};
}

RowResult SyscallBatch::add_may_fail(long number, std::initializer_list<Argument> arguments,
                                     std::string object) {
  const RowResult result = add(number, arguments, std::move(object));
  rows_.back().may_fail = true;
  return result;
}

DataAt SyscallBatch::put(std::span<const std::byte> bytes) {
  const DataAt at = reserve(bytes.size());
  std::copy(bytes.begin(), bytes.end(), data_.begin() + static_cast<std::ptrdiff_t>(at.offset));
  return at;
}

DataAt SyscallBatch::put_string(std::string_view text) {
  const DataAt at = reserve(text.size() + 1);
  __builtin_memcpy(data_.data() + at.offset, text.data(), text.size());
  return at;
}

DataAt SyscallBatch::reserve(std::size_t bytes) {
  const std::size_t start = (data_.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment;
  data_.resize(start + bytes);
  return {start};
}

std::uint32_t SyscallBatch::append(const SyscallBatch& other) {
  const auto first_row = static_cast<std::uint32_t>(rows_.size());
  const DataAt data = put(other.data_);
  rows_.reserve(rows_.size() + other.rows_.size());
  for (Row row : other.rows_) {
    row.first_argument += static_cast<std::uint32_t>(arguments_.size());
    if (row.object != 0) row.object += static_cast<std::uint32_t>(objects_.size());
    rows_.push_back(row);
  }
  for (Argument argument : other.arguments_) {
    if (argument.kind() == Argument::Kind::kRow) {
      argument = RowResult{first_row + static_cast<std::uint32_t>(argument.value())};
    } else if (argument.kind() == Argument::Kind::kData) {
      argument = data + argument.value();
    }
    arguments_.push_back(argument);
  }
  objects_.insert(objects_.end(), other.objects_.begin(), other.objects_.end());
  return first_row;
}

void SyscallBatch::fit() {
  rows_.shrink_to_fit();
  arguments_.shrink_to_fit();
  objects_.shrink_to_fit();
  data_.shrink_to_fit();
}

std::string SyscallBatch::print() const {
  std::string text;
  for (const Row& row : rows_) {
    text += syscall_name(row.number) + "(";
    for (bool first = true; const Argument& argument : arguments(row)) {
      if (!std::exchange(first, false)) text += ", ";
      text += print_argument(argument);
    }
    text += ")";
    if (row.may_fail) text += "?";
    if (row.object != 0) text += " # " + object(row);
    text += "\n";
  }
  return text;
}

std::string syscall_name(long number) {
  const std::string_view name = arch::syscall_name(number);
  return name.empty() ? fmt::format("call {}", number) : std::string(name);
}

}  // namespace godwit
