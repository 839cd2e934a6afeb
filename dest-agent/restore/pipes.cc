#include "dest-agent/restore/pipes.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <set>

#include "common/base/scope_exit.h"

namespace godwit {
namespace {

constexpr std::size_t kPacketBytesMax = 4096;  // PIPE_BUF: a larger write makes several packets

UniqueFd open_again(int end, std::uint32_t flags) {
  const auto wanted = flags & (O_ACCMODE | O_NONBLOCK | O_DIRECT);
  return open_file(fmt::format("/proc/self/fd/{}", end), static_cast<int>(wanted));
}

void write_all(int fd, const char* from, std::size_t bytes, bool as_packet, std::uint32_t id) {
  if (fcntl(fd, F_SETFL, O_NONBLOCK | (as_packet ? O_DIRECT : 0)) != 0) {
    throw_system("fd {}: set the mode of the pipe's writing end", id);
  }
  while (bytes > 0) {
    const auto written = write(fd, from, bytes);
    if (written <= 0) throw_system("fd {}: write {} bytes into the pipe", id, bytes);
    from += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void drain(int fd, std::uint32_t id) {
  char block[65536];
  for (;;) {
    int waiting = 0;
    if (ioctl(fd, FIONREAD, &waiting) != 0) throw_system("fd {}: FIONREAD on the pipe", id);
    if (waiting == 0) return;
    if (read(fd, block, sizeof block) <= 0) throw_system("fd {}: empty the pipe", id);
  }
}

void set_capacity(int fd, int& known, const proto::OpenFile& file) {
  const int want = static_cast<int>(file.pipe_end().capacity());
  if (want == 0) return;
  if (known == 0) known = fcntl(fd, F_GETPIPE_SZ);
  if (want == known) return;
  if (fcntl(fd, F_SETPIPE_SZ, want) < 0) {
    const int code = errno;
    throw Error(fmt::format("fd {}: give the pipe {} bytes: {}", file.id(), want, errno_text(code)),
                code, "raise fs.pipe-max-size and fs.pipe-user-pages-soft at the destination");
  }
  known = want;
}

}  // namespace

UniqueFd PipeStore::end_for(const proto::OpenFile& file) {
  Pipe& pipe = pipes_[file.pipe_end().pipe()];
  if (!pipe.read_end.valid()) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw_system("fd {}: make a pipe", file.id());
    pipe.read_end.reset(ends[0]);
    pipe.write_end.reset(ends[1]);
  }
  const auto access = file.status_flags() & O_ACCMODE;
  const bool write_end = access == O_WRONLY;
  bool& given = write_end ? pipe.write_end_given : pipe.read_end_given;
  const UniqueFd& end = write_end ? pipe.write_end : pipe.read_end;
  if (given || access == O_RDWR) return open_again(end.get(), file.status_flags());
  given = true;
  given_[file.id()] = {file.pipe_end().pipe(), write_end};
  return duplicate_fd(end.get());
}

void PipeStore::forget(std::uint32_t id) {
  const auto given = given_.find(id);
  if (given == given_.end()) return;
  const auto pipe = pipes_.find(given->second.pipe);
  if (pipe != pipes_.end()) {
    (given->second.write_end ? pipe->second.write_end_given : pipe->second.read_end_given) = false;
  }
  given_.erase(given);
}

void PipeStore::keep_only(const proto::FdTable& want) {
  std::set<std::uint64_t> wanted;
  for (const auto& file : want.files()) {
    if (file.has_pipe_end()) wanted.insert(file.pipe_end().pipe());
  }
  std::erase_if(pipes_, [&](const auto& entry) { return wanted.count(entry.first) == 0; });
}

void PipeStore::fill(const proto::FdTable& want) {
  std::set<std::uint64_t> packet_pipes;
  for (const auto& file : want.files()) {
    if (file.has_pipe_end() && file.pipe_end().write_end() && file.pipe_end().packet_mode()) {
      packet_pipes.insert(file.pipe_end().pipe());
    }
  }
  for (const auto& file : want.files()) {
    if (!file.has_pipe_end()) continue;
    const auto& end = file.pipe_end();
    Pipe& pipe = pipes_.at(end.pipe());
    set_capacity(pipe.read_end.get(), pipe.capacity, file);
    const bool same =
        pipe.contents == end.contents() && std::ranges::equal(pipe.packets, end.packets());
    if (end.tells_contents() && !same) {
      drain(pipe.read_end.get(), file.id());
      set_contents(pipe, file, packet_pipes.count(end.pipe()) > 0);
    }
  }
}

void PipeStore::set_contents(Pipe& pipe, const proto::OpenFile& file, bool packet_mode) {
  const auto& end = file.pipe_end();
  pipe.contents = end.contents();
  pipe.packets.assign(end.packets().begin(), end.packets().end());
  if (end.contents().empty()) return;
  const int to = pipe.write_end.get();
  // The skeleton's first end is the same open file.
  const int flags = fcntl(to, F_GETFL);
  const ScopeExit give_back([&] { fcntl(to, F_SETFL, flags); });
  const char* from = end.contents().data();
  if (!packet_mode && end.packets_size() <= 1) {
    write_all(to, from, end.contents().size(), false, file.id());
    return;
  }
  // A read ends behind a packet. What is longer than a packet can be began with plain bytes.
  std::size_t left = end.contents().size();
  for (const std::size_t bytes : end.packets()) {
    if (bytes > left) fail("fd {}: packets of a pipe exceed its contents", file.id());
    const std::size_t packet = std::min(bytes, kPacketBytesMax);
    write_all(to, from, bytes - packet, false, file.id());
    write_all(to, from + (bytes - packet), packet, true, file.id());
    from += bytes;
    left -= bytes;
  }
}

}  // namespace godwit
