#include "common/kernel/socket_block.h"

#include <linux/bpf.h>
#include <linux/filter.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/socket_options.h"

namespace godwit {
namespace {

constexpr char kLicense[] = "Apache-2.0";

sock_filter take_nothing() {
  sock_filter instruction{};
  instruction.code = BPF_RET | BPF_K;
  return instruction;
}

UniqueFd try_load_program() {
  bpf_insn instructions[2] = {};
  instructions[0].code = BPF_ALU64 | BPF_MOV | BPF_K;  // r0 = 0
  instructions[1].code = BPF_JMP | BPF_EXIT;
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  attributes.insn_cnt = std::size(instructions);
  attributes.insns = reinterpret_cast<__u64>(instructions);
  attributes.license = reinterpret_cast<__u64>(kLicense);
  return UniqueFd(
      static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes))));
}

}  // namespace

SocketBlock::SocketBlock() : program_(try_load_program()) {
  if (!program_.valid()) log_debug("no eBPF socket filter: {}", errno_text(errno));
}

void SocketBlock::block(int fd) const {
  if (program_.valid()) {
    const int program = program_.get();
    if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program) == 0) return;
  }
  sock_filter instruction = take_nothing();
  const sock_fprog program{1, &instruction};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0) {
    throw_system("block the input of descriptor {}", fd);
  }
}

void unblock_socket_input(int fd, const std::optional<std::string>& own_filter) {
  if (own_filter) {
    set_socket_option(fd, {SOL_SOCKET, SO_ATTACH_FILTER, *own_filter});
    return;
  }
  const int unused = 0;
  if (::setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused) != 0 &&
      errno != ENOENT) {
    throw_system("unblock the input of descriptor {}", fd);
  }
}

bool is_socket_input_blocked(int fd) {
  if (socket_filter(fd) == SocketFilter::kOpaque) {
    return int_socket_option(fd, SOL_SOCKET, SO_LOCK_FILTER) == 0;
  }
  const auto program = classic_socket_filter(fd);
  sock_filter instruction{};
  if (!program || program->size() != sizeof(instruction)) return false;
  std::memcpy(&instruction, program->data(), sizeof(instruction));
  const sock_filter expected = take_nothing();
  return instruction.code == expected.code && instruction.k == expected.k;
}

}  // namespace godwit
