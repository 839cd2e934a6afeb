#include "source-agent/capture/pipes.h"

#include <sys/ioctl.h>

#include <algorithm>

namespace godwit {
namespace {

constexpr std::size_t kReadBytes = 1 << 20;

}  // namespace

void PipeReader::make_room(int capacity, const std::string& name) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw_system("make a pipe");
  read_end_.reset(ends[0]);
  write_end_.reset(ends[1]);
  capacity_ = fcntl(ends[1], F_SETPIPE_SZ, capacity);
  if (capacity_ < 0) throw_system("make a pipe of {} bytes to copy {}", capacity, name);
  if (!block_) block_ = std::make_unique_for_overwrite<char[]>(kReadBytes);  // mostly untouched
}

// tee(2) shares the buffers, of which ours must take as many. One read gives one packet.
ssize_t PipeReader::read(int pipe, const std::string& name, proto::PipeEnd& out) {
  const int capacity = fcntl(pipe, F_GETPIPE_SZ);
  if (capacity < 0) throw_system("ask for the capacity of {}", name);
  if (capacity > capacity_) make_room(capacity, name);
  const auto bytes =
      tee(pipe, write_end_.get(), static_cast<std::size_t>(capacity), SPLICE_F_NONBLOCK);
  if (bytes < 0 && errno != EAGAIN) throw_system("duplicate the contents of {}", name);
  for (ssize_t left = bytes; left > 0;) {
    const auto got = ::read(read_end_.get(), block_.get(), kReadBytes);
    if (got <= 0) throw_system("read the copy of {}", name);
    left -= got;
    out.mutable_contents()->append(block_.get(), static_cast<std::size_t>(got));
    out.add_packets(static_cast<std::uint32_t>(got));
  }
  return std::max<ssize_t>(bytes, 0);
}

bool is_pipe(const FdFacts& facts) { return facts.link.starts_with("pipe:["); }

proto::PipeEnd capture_pipe_end(const FdFacts& facts, bool contents, bool exact,
                                PipeReader& reader) {
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
  const auto ask = [&] {
    int waiting = 0;
    if (ioctl(facts.copy.get(), FIONREAD, &waiting) != 0)
      throw_system("FIONREAD on {}", facts.name());
    return waiting;
  };
  if (ask() == 0) return out;
  // Packets of both modes may be mixed in one pipe; the boundaries are wanted whenever the writing
  // end may make packets, which this end does not know.
  const auto bytes = reader.read(facts.copy.get(), facts.name(), out);
  if (exact && bytes != ask()) {
    fail("{} holds {} bytes, but {} could be copied", facts.name(), ask(), bytes);
  }
  return out;
}

}  // namespace godwit
