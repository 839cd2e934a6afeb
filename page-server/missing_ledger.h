// What a page server knows of pages that are missing, written down as it changes, so that another
// one can go on when it was killed: records appended to a file without a name that its agent holds.
//
// A record is written when what it tells has been done. Between the two a killed page server leaves
// a page that is there and counts as missing, which the next one notices (EEXIST).
//
// Thread: one at a time.
#pragma once

#include <cstdint>
#include <functional>

#include "common/base/page_range.h"
#include "common/base/unique_fd.h"

namespace godwit {

struct LedgerRecord {
  enum class Kind : std::uint32_t {
    kSpace = 1,  // range.start: the source's number of it, range.end: the space it was forked from
    kMissing = 2,    // of the range, when the space began
    kThere = 3,      // the range was placed
    kForgotten = 4,  // the range was removed or unmapped
    kMoved = 5,      // the range is at `to` now
    kGone = 6,       // the whole space
  };
  Kind kind = Kind::kSpace;
  std::uint32_t space = 0;  // counted from 0 in the order of their kSpace records
  PageRange range;
  Address to = 0;
};

// The parent of a space that was not forked.
inline constexpr std::uint64_t kNoParent = ~0ULL;

class MissingLedger {
 public:
  MissingLedger() = default;  // nothing is kept
  explicit MissingLedger(UniqueFd file) : file_(std::move(file)) {}

  // Throws Error: then nothing is certain any more.
  void add(const LedgerRecord& record);
  // Every whole record, in order. Throws Error for a file that add() has not written.
  void replay(const std::function<void(const LedgerRecord&)>& sink) const;

 private:
  UniqueFd file_;
};

}  // namespace godwit
