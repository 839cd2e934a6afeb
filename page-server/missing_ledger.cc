#include "page-server/missing_ledger.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <type_traits>

#include "common/base/error.h"

namespace godwit {
namespace {

static_assert(std::is_trivially_copyable_v<LedgerRecord>);
constexpr std::size_t kRecordsAtOnce = 1024;

}  // namespace

void MissingLedger::add(const LedgerRecord& record) {
  if (!file_.valid()) return;
  ssize_t put = 0;
  do {
    put = ::write(file_.get(), &record, sizeof(record));
  } while (put < 0 && errno == EINTR);
  if (put != sizeof(record)) throw_system("writing down what is missing");
}

void MissingLedger::replay(const std::function<void(const LedgerRecord&)>& sink) const {
  std::array<LedgerRecord, kRecordsAtOnce> records;
  off_t at = 0;
  for (;;) {
    const ssize_t got = ::pread(file_.get(), records.data(), sizeof(records), at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system("reading what is missing");
    const auto count = static_cast<std::size_t>(got) / sizeof(LedgerRecord);
    for (std::size_t i = 0; i < count; ++i) {
      const LedgerRecord& record = records[i];
      const auto kind = static_cast<std::uint32_t>(record.kind);
      if (kind < 1 || kind > 6) fail("what is missing: unknown record {} at {}", kind, at);
      sink(record);
    }
    at += static_cast<off_t>(count * sizeof(LedgerRecord));
    if (count == 0) break;
  }
  // A record that was cut short is written anew.
  if (::ftruncate(file_.get(), at) != 0 || ::lseek(file_.get(), at, SEEK_SET) < 0) {
    throw_system("going on with what is missing");
  }
}

}  // namespace godwit
