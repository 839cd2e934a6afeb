#include "source-agent/capture/pipes.h"

#include <sys/ioctl.h>

namespace godwit {
namespace {

constexpr std::size_t kReadBytes = 1 << 20;

// A pipe of our own that holds the same buffers as `pipe`.
UniqueFd tee_contents(int pipe, int capacity, const std::string& name) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw_system("make a pipe");
  UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  if (fcntl(write_end.get(), F_SETPIPE_SZ, capacity) < 0) {
    throw_system("make a pipe of {} bytes to copy {}", capacity, name);
  }
  const auto bytes =
      tee(pipe, write_end.get(), static_cast<std::size_t>(capacity), SPLICE_F_NONBLOCK);
  if (bytes < 0 && errno != EAGAIN) throw_system("duplicate the contents of {}", name);
  return read_end;
}

// One read gives one packet in packet mode.
void read_contents(int from, proto::PipeEnd& out, const std::string& name) {
  std::string block(kReadBytes, '\0');
  for (;;) {
    const auto bytes = read(from, block.data(), block.size());
    if (bytes == 0 || (bytes < 0 && errno == EAGAIN)) return;
    if (bytes < 0) throw_system("read the copy of {}", name);
    out.mutable_contents()->append(block, 0, static_cast<std::size_t>(bytes));
    if (out.packet_mode()) out.add_packets(static_cast<std::uint32_t>(bytes));
  }
}

}  // namespace

bool is_pipe(const FdFacts& facts) { return facts.link.starts_with("pipe:["); }

proto::PipeEnd capture_pipe_end(const FdFacts& facts, bool contents) {
  proto::PipeEnd out;
  out.set_pipe(facts.stamp.inode);
  out.set_write_end((facts.info.flags & O_ACCMODE) == O_WRONLY);
  out.set_packet_mode((facts.info.flags & O_DIRECT) != 0);
  if (!facts.copy.valid()) return out;
  const int capacity = fcntl(facts.copy.get(), F_GETPIPE_SZ);
  if (capacity < 0) throw_system("ask for the capacity of {}", facts.name());
  out.set_capacity(static_cast<std::uint32_t>(capacity));
  if (!contents || out.write_end()) return out;
  out.set_tells_contents(true);
  int waiting = 0;
  if (ioctl(facts.copy.get(), FIONREAD, &waiting) != 0)
    throw_system("FIONREAD on {}", facts.name());
  if (waiting == 0) return out;
  // Packets of both modes may be mixed in one pipe; the boundaries are wanted whenever the writing
  // end may make packets, which this end does not know.
  const bool own_mode = out.packet_mode();
  out.set_packet_mode(true);
  const UniqueFd copy = tee_contents(facts.copy.get(), capacity, facts.name());
  read_contents(copy.get(), out, facts.name());
  out.set_packet_mode(own_mode);
  if (out.contents().size() != static_cast<std::size_t>(waiting)) {
    fail("{} holds {} bytes, but {} could be copied", facts.name(), waiting, out.contents().size());
  }
  return out;
}

}  // namespace godwit
