#include "common/tracking/dirty_tracker.h"

namespace godwit {
namespace {

void add_sent(const PageRange& range, const PageBitmap& sent, PageBitmap& to) {
  sent.for_each_run(range, [&](const PageRange& run) { to.set(run); });
}

void classify_private_file(const PageRange& range, const PageState& state, bool fresh,
                           const PageBitmap& sent, ScanFindings& findings) {
  const bool own_copy = (state.present && !state.file) || (state.swapped && !state.guard);
  if (own_copy && (fresh || state.written)) {
    findings.data.set(range);
  } else if (!fresh && !(state.present && !state.file)) {
    // The copy was given back, which makes the file's content visible again. A page in swap cannot
    // be told from a mark of the kernel's in the page table, so it is sent once more.
    add_sent(range, sent, findings.data);
  }
}

}  // namespace

void classify(const PageRange& range, const PageState& state, AreaKind kind, bool fresh,
              const PageBitmap& sent, ScanFindings& findings) {
  if (kind == AreaKind::kPrivateFile) {
    classify_private_file(range, state, fresh, sent, findings);
    return;
  }
  const bool there = (state.present || state.swapped) && !state.guard && !state.zero_page;
  if (there) {
    if (fresh || state.written) findings.data.set(range);
    return;
  }
  if (fresh) return;
  const bool emptied = kind == AreaKind::kAnonymous || state.zero_page;
  add_sent(range, sent, emptied ? findings.zero : findings.data);
}

}  // namespace godwit
