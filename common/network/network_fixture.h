// For tests: hosts made of network namespaces on one bridge, gone with the object.
//
//   source 10.77.0.1, dest 10.77.0.2, client 10.77.0.3 (fd77::1, ::2, ::3), interface eth0 each.
//   The source also has the service's addresses 10.77.0.5 and fd77::5.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>

#include "common/base/error.h"
#include "common/base/scope_exit.h"
#include "common/base/unique_fd.h"
#include "common/network/socket_address.h"

namespace godwit {

class TestNetwork {
 public:
  TestNetwork() {
    for (const char* name : {"switch", "source", "dest", "client"}) make_namespace(name);
    run("switch",
        "ip link add br0 type bridge forward_delay 0 mcast_snooping 0 && ip link set br0 up");
    add_host("source", 1);
    add_host("dest", 2);
    add_host("client", 3);
    for (const char* name : {"source", "dest", "client"}) await_link(name);
    run("source", "ip addr add 10.77.0.5/24 dev eth0 && ip addr add fd77::5/64 dev eth0 nodad");
    for (const char* address : {"10.77.0.5", "fd77::5", "10.77.0.2", "fd77::2"}) {
      in("client", [&] { await_answer({*IpAddress::from_text(address), 1}); });
    }
  }

  // Runs `body` in a thread of its own inside the host's network.
  void in(const std::string& host, const std::function<void()>& body) {
    std::exception_ptr failure;
    std::thread thread([&] {
      try {
        if (setns(namespaces_.at(host).get(), CLONE_NEWNET) != 0) throw_system("setns {}", host);
        body();
      } catch (...) {
        failure = std::current_exception();
      }
    });
    thread.join();
    if (failure) std::rethrow_exception(failure);
  }

  // A shell command in the host's network; throws when it fails. Returns its output.
  std::string run(const std::string& host, const std::string& command) {
    std::string output;
    in(host, [&] {
      FILE* pipe = popen((command + " 2>&1").c_str(), "re");
      if (pipe == nullptr) throw_system("popen");
      char buffer[4096];
      for (std::size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
        output.append(buffer, got);
      }
      if (pclose(pipe) != 0) fail("{}: {}: {}", host, command, output);
    });
    return output;
  }

  // A counter of /proc/net/netstat or snmp, such as TcpExt TCPTimeouts.
  long counter(const std::string& host, const std::string& group, const std::string& name) {
    const std::string text =
        run(host, "cat /proc/thread-self/net/netstat /proc/thread-self/net/snmp");
    std::istringstream lines(text);
    std::string names;
    std::string values;
    while (std::getline(lines, names) && std::getline(lines, values)) {
      if (!names.starts_with(group + ":")) continue;
      std::istringstream name_words(names);
      std::istringstream value_words(values);
      std::string name_word;
      std::string value_word;
      while (name_words >> name_word && value_words >> value_word) {
        if (name_word == name) return std::stol(value_word);
      }
    }
    return -1;
  }

 private:
  void make_namespace(const std::string& name) {
    std::thread([&] {
      if (unshare(CLONE_NEWNET) != 0) return;
      namespaces_[name] = open_file("/proc/thread-self/ns/net", O_RDONLY);
    }).join();
    if (!namespaces_[name].valid()) fail("no network namespace for {}", name);
    run(name, "ip link set lo up");
  }

  void add_host(const std::string& name, int number) {
    const int fd = namespaces_.at(name).get();
    run("switch", fmt::format("ip link add p{0} type veth peer name eth0 netns /proc/{1}/fd/{2} && "
                              "ip link set p{0} master br0 && ip link set p{0} up",
                              number, getpid(), fd));
    run(name, fmt::format("ip link set eth0 up && ip addr add 10.77.0.{0}/24 dev eth0 && "
                          "ip addr add fd77::{0}/64 dev eth0 nodad",
                          number));
  }

  // The kernel starts a link's queues a moment after it is up; packets before that are dropped.
  void await_link(const std::string& name) {
    for (int tried = 0; tried < 300; ++tried) {
      if (run(name, "ip link show eth0").find("state UP") != std::string::npos) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    fail("the link of {} does not come up", name);
  }

  // Until a connection is refused by its host, the way there may still be setting up.
  static void await_answer(const SocketAddress& closed) {
    for (int tried = 0; tried < 100; ++tried) {
      const UniqueFd fd(socket(closed.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      if (connect(fd.get(), closed.get(), closed.size()) != 0 && errno == ECONNREFUSED) return;
      pollfd entry{fd.get(), POLLOUT, 0};
      if (poll(&entry, 1, 50) == 1) return;
    }
    fail("{} does not answer", closed.text());
  }

  std::map<std::string, UniqueFd> namespaces_;
};

}  // namespace godwit
