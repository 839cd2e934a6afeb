#include "dest-agent/restore/filesystem_context.h"

#include <sys/stat.h>
#include <sys/syscall.h>

#include <limits>
#include <string>
#include <string_view>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::string_view kHostRoot = "/";

// `path`, a path of the host, as a task sees it whose root is `root`.
std::string inside_root(const std::string& path, const std::string& root) {
  if (root == kHostRoot) return path;
  if (path == root) return "/";
  if (path.starts_with(root + "/")) return path.substr(root.size());
  fail("working directory {} lies outside of the root {}", path, root);
}

}  // namespace

proto::FilesystemContext filesystem_context_here() {
  proto::FilesystemContext context;
  context.set_root(std::string(kHostRoot));
  context.set_umask(std::numeric_limits<std::uint32_t>::max());
  return context;
}

void plan_filesystem_context(const proto::FilesystemContext& have,
                             const proto::FilesystemContext& want, SyscallBatch& batch) {
  const std::string root = have.root().empty() ? std::string(kHostRoot) : have.root();
  if (root != want.root() && root != kHostRoot) {
    fail("root {} cannot become {}: a root is never given back", root, want.root());
  }
  // The directory first: both are paths of the host, and chroot leaves the directory alone.
  if (have.working_directory() != want.working_directory()) {
    const std::string path = inside_root(want.working_directory(), root);
    batch.add(SYS_chdir, {batch.put_string(path)}, want.working_directory());
  }
  if (root != want.root()) batch.add(SYS_chroot, {batch.put_string(want.root())}, want.root());
  if (have.umask() != want.umask()) batch.add(SYS_umask, {want.umask()}, "umask");
}

void check_filesystem_context(const proto::FilesystemContext& want, Findings& findings) {
  for (const std::string& path : {want.working_directory(), want.root()}) {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) continue;
    refuse(findings, "directory-missing", path, "the destination has no such directory",
           "make it there, or let the process change to one that both hosts have");
  }
}

}  // namespace godwit
