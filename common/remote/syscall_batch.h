// A batch of system calls to be made inside a stopped task, as data.
//
// Straight line only: a row is a call; an argument is a number, the result of an earlier row, or
// the address of bytes that travel with the batch. A batch stops at the first failing row unless
// the row may fail. There are no jumps and no arithmetic: what needs a decision needs two batches.
//
// A call that can wait with a timeout (nanosleep, poll, futex with one) has no place in a batch
// that runs in somebody else's program: it overwrites what the kernel keeps of the call that the
// stop interrupted (restart_syscall(2)).
//
//   SyscallBatch batch;
//   const DataAt path = batch.put_string("/srv/db.log");
//   const RowResult fd = batch.add(SYS_openat, {AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0});
//   batch.add(SYS_dup3, {fd, 7, 0});
//   batch.add(SYS_close, {fd});
//   task.run(batch);
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace godwit {

// The result of an earlier row of the same batch.
struct RowResult {
  std::uint32_t row = 0;
};

// Bytes of the batch's data area; its address in the task is known when the batch runs.
struct DataAt {
  std::uint64_t offset = 0;
  DataAt operator+(std::uint64_t bytes) const { return {offset + bytes}; }
};

class Argument {
 public:
  enum class Kind : std::uint8_t { kValue, kRow, kData };

  template <typename T>
  requires std::is_integral_v<T> || std::is_enum_v<T> Argument(T value)
      : value_(static_cast<std::uint64_t>(value)) {}                  // NOLINT: meant to convert
  Argument(RowResult row) : kind_(Kind::kRow), value_(row.row) {}     // NOLINT
  Argument(DataAt data) : kind_(Kind::kData), value_(data.offset) {}  // NOLINT

  Kind kind() const { return kind_; }
  std::uint64_t value() const { return value_; }

 private:
  Kind kind_ = Kind::kValue;
  std::uint64_t value_ = 0;
};

class SyscallBatch {
 public:
  static constexpr std::size_t kArguments = 6;

  // Batches have tens of thousands of them: what they say stands in the batch.
  struct Row {
    std::int32_t number = 0;
    std::uint32_t first_argument = 0;
    std::uint32_t object = 0;  // 0: none
    std::uint8_t argument_count = 0;
    bool may_fail = false;
  };

  // Appends a call. `object` names what it is about in the error if it fails.
  RowResult add(long number, std::initializer_list<Argument> arguments, std::string object = {});
  // The same; a failure is this row's result (-errno) and the batch goes on.
  RowResult add_may_fail(long number, std::initializer_list<Argument> arguments,
                         std::string object = {});

  // Bytes that the calls read. put() keeps them 16-byte aligned.
  DataAt put(std::span<const std::byte> bytes);
  DataAt put_string(std::string_view text);  // with a terminating 0
  template <typename T>
  requires std::is_trivially_copyable_v<T> DataAt put_value(const T& value) {
    return put(std::as_bytes(std::span(&value, 1)));
  }
  // Writes over bytes put or reserved before.
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void set_value(DataAt at, const T& value) {
    if (at.offset + sizeof value > data_.size()) throw std::out_of_range("data of a batch");
    __builtin_memcpy(data_.data() + at.offset, &value, sizeof value);
  }
  // Zeroed bytes that the calls write: read them from the outcome.
  DataAt reserve(std::size_t bytes);

  // Appends all of `other` behind this batch; its row and data references go along. Returns the row
  // number of other's first row.
  std::uint32_t append(const SyscallBatch& other);

  // Nothing more comes: gives back what was set aside for it.
  void fit();

  const std::vector<Row>& rows() const { return rows_; }
  // At most kArguments; the rest are 0.
  std::span<const Argument> arguments(const Row& row) const {
    return std::span(arguments_).subspan(row.first_argument, row.argument_count);
  }
  // What it is about, for the message when it fails: "fd 7", "/srv/db.log".
  std::string object(const Row& row) const {
    return row.object == 0 ? std::string() : objects_[row.object - 1];
  }
  const std::vector<std::byte>& data() const { return data_; }
  bool empty() const { return rows_.empty(); }

  // strace-like, one line per row: openat(AT -100, data+0, 0x80000, 0x0) # /srv/db.log
  std::string print() const;

 private:
  std::vector<Row> rows_;
  std::vector<Argument> arguments_;
  std::vector<std::string> objects_;
  std::vector<std::byte> data_;
};

// What became of a batch.
class BatchOutcome {
 public:
  BatchOutcome(std::vector<std::int64_t> results, std::vector<std::byte> data, bool complete)
      : results_(std::move(results)), data_(std::move(data)), complete_(complete) {}

  // False: the last row in results() failed and stopped the batch (only from try_run()).
  bool complete() const { return complete_; }
  // One per executed row: the kernel's answer, -errno on failure.
  const std::vector<std::int64_t>& results() const { return results_; }
  std::int64_t operator[](RowResult row) const { return results_.at(row.row); }

  std::span<const std::byte> bytes(DataAt at, std::size_t size) const {
    return std::span(data_).subspan(at.offset, size);
  }
  template <typename T>
  T value(DataAt at) const {
    T out;
    const auto from = bytes(at, sizeof(T));
    __builtin_memcpy(&out, from.data(), sizeof(T));
    return out;
  }

 private:
  std::vector<std::int64_t> results_;
  std::vector<std::byte> data_;
  bool complete_;
};

// Name of a system call number on this architecture, "call 435" if unknown.
std::string syscall_name(long number);

}  // namespace godwit
