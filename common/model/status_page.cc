#include "common/model/status_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <type_traits>

#include "common/base/clock.h"
#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::uint64_t kMagic = 0x3153'5457'4447;  // and a version
constexpr int kLooksMax = 1000;

// A page as it is read.
struct Copied {
  std::uint64_t magic = 0;
  std::uint64_t bytes = 0;
  std::uint64_t turn = 0;
  MigrationStatus status;
};

}  // namespace

// `turn` is odd while the status is written.
struct StatusPage::Page {
  std::uint64_t magic = kMagic;
  std::uint64_t bytes = sizeof(Page);
  std::atomic<std::uint64_t> turn{0};
  MigrationStatus status;
};

static_assert(std::is_trivially_copyable_v<MigrationStatus>);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

StatusPage::StatusPage(std::string path) : path_(std::move(path)) {
  static_assert(sizeof(Page) == sizeof(Copied) && offsetof(Page, turn) == offsetof(Copied, turn) &&
                offsetof(Page, status) == offsetof(Copied, status));
  ::unlink(path_.c_str());
  const UniqueFd file = open_file(path_, O_RDWR | O_CREAT | O_EXCL, 0600);
  // A full disk shows now: later it would be SIGBUS.
  const int code = ::posix_fallocate(file.get(), 0, sizeof(Page));
  if (code != 0) {
    ::unlink(path_.c_str());
    throw_errno(code, "room for " + path_);
  }
  void* memory = ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                        file.get(), 0);
  if (memory == MAP_FAILED) throw_system("map {}", path_);
  page_ = std::construct_at(static_cast<Page*>(memory));
}

StatusPage::~StatusPage() {
  ::unlink(path_.c_str());
  ::munmap(page_, sizeof(Page));
}

void StatusPage::tell(const MigrationStatus& status) noexcept {
  page_->turn.fetch_add(1, std::memory_order_acq_rel);
  page_->status = status;
  page_->status.told_ns = monotonic_ns();
  page_->turn.fetch_add(1, std::memory_order_release);
}

// Read by pread: a file that is cut short under a mapping would end the reader.
std::optional<MigrationStatus> try_read_status(const std::string& path) {
  const UniqueFd file = try_open_file(path, O_RDONLY);
  if (!file.valid()) return std::nullopt;
  for (int look = 0; look < kLooksMax; ++look) {
    Copied raw;
    std::uint64_t turn = 0;
    if (::pread(file.get(), &raw, sizeof(raw), 0) != sizeof(raw)) return std::nullopt;
    if (::pread(file.get(), &turn, sizeof(turn), offsetof(Copied, turn)) != sizeof(turn)) break;
    if (raw.magic != kMagic || raw.bytes != sizeof(raw)) return std::nullopt;
    if (raw.turn == turn && turn % 2 == 0)
      return turn == 0 ? std::nullopt : std::optional(raw.status);
  }
  return std::nullopt;
}

}  // namespace godwit
