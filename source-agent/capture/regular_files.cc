#include "source-agent/capture/regular_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace godwit {
namespace {

constexpr std::string_view kDeletedSuffix = " (deleted)";

// null, zero, full, random, urandom: character devices without a state of their own.
bool is_stateless_device(std::uint64_t device) {
  if (major(device) != 1) return false;
  const auto number = minor(device);
  return number == 3 || number == 5 || number == 7 || number == 8 || number == 9;
}

bool is_terminal(std::uint64_t device) {
  const auto number = major(device);
  return number == 4 || number == 5 || number == 3 || number == 2 ||
         (number >= 136 && number <= 143);
}

void examine_device(const FdFacts& facts, Findings& findings) {
  if (is_stateless_device(facts.stamp.rdevice)) return;
  if (is_terminal(facts.stamp.rdevice)) {
    refuse(findings, "fd-terminal", facts.name(), "a terminal cannot be moved",
           "start the process with its input and output redirected to files or /dev/null");
    return;
  }
  refuse(findings, "fd-device", facts.name(),
         fmt::format("device {}:{} has a state that only this host knows",
                     major(facts.stamp.rdevice), minor(facts.stamp.rdevice)),
         "only /dev/null, zero, full, random and urandom can be moved");
}

// A name that the kernel made up, such as /memfd:x, /dmabuf:x, /dev/zero (deleted).
bool examine_memory_file(const FdFacts& facts, Findings& findings) {
  if (facts.link.starts_with("/memfd:")) {
    refuse(findings, "fd-memfd", facts.name(), "memfd files cannot be moved yet",
           "close it, or use a file with a path");
    return false;
  }
  if (facts.link.starts_with("/dmabuf:")) {
    refuse(findings, "fd-dmabuf", facts.name(), "a buffer shared with a device cannot be moved",
           "stop using the device first");
    return false;
  }
  if (facts.link.starts_with("/secretmem")) {
    refuse(findings, "fd-secretmem", facts.name(), "secret memory cannot be read, so not moved",
           "close it");
    return false;
  }
  return true;
}

}  // namespace

bool is_path_file(const FdFacts& facts) {
  return facts.link.starts_with('/') || facts.link.starts_with("(unreachable)");
}

RegularFilesCapture::RegularFilesCapture(pid_t host_pid)
    : path_prefix_(reachable_path(host_pid, "")) {}

// Is the file where its link says?
bool RegularFilesCapture::examine_place(const FdFacts& facts, Findings& findings) {
  if (facts.stamp.links == 0) {
    // O_TMPFILE names are "/dir/#inode (deleted)".
    const bool unnamed =
        facts.link.find(fmt::format("/#{}", facts.stamp.inode)) != std::string::npos;
    refuse(findings, unnamed ? "fd-unnamed-file" : "fd-deleted-file", facts.name(),
           unnamed ? "the file never had a name" : "the file is deleted, no path leads to it",
           "link it to a name (ln -L /proc/PID/fd/N) or let the process close it");
    return false;
  }
  const std::string key =
      fmt::format("{} {} {}", facts.stamp.device, facts.stamp.inode, facts.link);
  if (found_.count(key) > 0) return true;
  const auto there = try_stamp(path_prefix_ + facts.link);
  if (there && there->is_same_file(facts.stamp)) {
    found_.insert(key);
    return true;
  }
  const bool gone = facts.link.ends_with(kDeletedSuffix);
  refuse(findings, gone ? "fd-deleted-file" : "fd-unreachable-file", facts.name(),
         !there ? "its path leads nowhere" : "its path leads to another file",
         "a mount covers it, or it has another name now: give it back the name it was opened by");
  return false;
}

void RegularFilesCapture::examine(const FdFacts& facts, Findings& findings) {
  if (!examine_memory_file(facts, findings)) return;
  const auto [system, is_new] = systems_.try_emplace(facts.stamp.device, nullptr);
  if (is_new) {
    system->second = kernel_file_system(fmt::format("/proc/{}/fd/{}", facts.host_pid, facts.fd));
  }
  if (system->second != nullptr) {
    refuse(findings, "fd-kernel-file", facts.name(),
           fmt::format("a file of {} means another thing on another host", system->second),
           "let the process close it");
    return;
  }
  if (S_ISFIFO(facts.stamp.mode)) {
    refuse(findings, "fd-fifo", facts.name(), "named pipes cannot be moved yet",
           "use a pipe within the process");
    return;
  }
  if (!S_ISREG(facts.stamp.mode) && !S_ISDIR(facts.stamp.mode) && !S_ISCHR(facts.stamp.mode)) {
    refuse(findings, S_ISBLK(facts.stamp.mode) ? "fd-device" : "fd-special-file", facts.name(),
           "only regular files, directories and stateless devices can be moved",
           "let the process close it");
    return;
  }
  if (S_ISCHR(facts.stamp.mode)) return examine_device(facts, findings);
  if (!examine_place(facts, findings)) return;
  if (!facts.info.locks.empty()) {
    const bool lease = facts.info.locks.front().find("LEASE") != std::string::npos;
    refuse(
        findings, lease ? "fd-lease" : "fd-locked", facts.name(),
        fmt::format("it holds a file {} ({})", lease ? "lease" : "lock", facts.info.locks.front()),
        "file locks cannot be moved yet: let the process release it");
  }
}

proto::RegularFile RegularFilesCapture::describe(const FdFacts& facts, Findings& findings) {
  examine(facts, findings);
  proto::RegularFile out;
  out.set_path(facts.link);
  out.set_mode(facts.stamp.mode);
  out.set_inode(facts.stamp.inode);
  if (S_ISCHR(facts.stamp.mode)) {
    out.set_device(facts.stamp.rdevice);
  } else {
    out.set_offset(facts.info.offset);
  }
  if (S_ISREG(facts.stamp.mode)) {
    out.set_bytes(facts.stamp.bytes);
    out.set_modified_ns(facts.stamp.modified_ns);
  }
  return out;
}

}  // namespace godwit
