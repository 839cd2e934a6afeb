#include "dest-agent/post_copy.h"

#include <sys/mman.h>
#include <sys/socket.h>

#include "common/base/error.h"
#include "common/base/log.h"

namespace godwit {

PostCopy::PostCopy(int daemon, std::vector<Passed> held) : daemon_(daemon) {
  for (Passed& passed : held) {
    if (passed.kind == kLedger) ledger_ = std::move(passed.fd);
    if (passed.kind == kSpace) spaces_.push_back({0, std::move(passed.fd)});
  }
}

void PostCopy::tell_daemon(int fd, char kind) const noexcept {
  try {
    send_fd(daemon_, fd, kind);
  } catch (const Error& error) {
    log_warning("the daemon does not hold what is missing: {}", error.what());
  }
}

void PostCopy::begin(PageServiceLink& pages, UniqueFd uffd) {
  ledger_.reset(::memfd_create("ledger", MFD_CLOEXEC));
  if (!ledger_.valid()) throw_system("memfd_create");
  spaces_.push_back({0, std::move(uffd)});
  proto::PageOrder order;
  order.mutable_serve_space()->set_space(0);
  const int descriptors[] = {spaces_.back().uffd.get(), ledger_.get()};
  pages.send(order, descriptors);
  tell_daemon(ledger_.get(), kLedger);
  tell_daemon(spaces_.back().uffd.get(), kSpace);
}

void PostCopy::resume(PageServiceLink& pages) const {
  for (const Held& space : spaces_) {
    proto::PageOrder order;
    order.mutable_hold_space()->set_parent(space.parent);
    const int descriptors[] = {space.uffd.get()};
    pages.send(order, descriptors);
  }
  proto::PageOrder order;
  order.mutable_resume_spaces();
  const int descriptors[] = {ledger_.get()};
  pages.send(order, descriptors);
}

void PostCopy::hold_child(std::uint32_t parent, UniqueFd uffd) {
  spaces_.push_back({parent, std::move(uffd)});
  tell_daemon(spaces_.back().uffd.get(), kSpace);
}

void PostCopy::end() {
  ledger_.reset();
  spaces_.clear();
  if (::send(daemon_, &kComplete, 1, MSG_NOSIGNAL) != 1) log_debug("the daemon is gone");
}

}  // namespace godwit
