// What a page server gives away before it reads anything from outside: descriptors, identity,
// capabilities, and every system call that it does not need (capabilities(7), seccomp(2)).
//
// What works on the task's memory is in the descriptors that the agent passes afterwards: those of
// /proc/PID/mem, /proc/PID/pagemap and a userfaultfd carry their permission.
#pragma once

namespace godwit {

// Closes everything but standard input, output and error (the first two become /dev/null) and
// `link_fd`.
void close_other_fds(int link_fd);

// Becomes the user godwit-pages, or nobody (65534) where there is no such user: no groups, no
// capabilities in any set, no_new_privs, no core dumps, not dumpable; dies with its parent. Without
// root privileges the identity stays. Throws Error when something cannot be given away. What it
// keeps is the right to the lowest of real-time priorities (see answering_precedence.h), of which
// the kernel leaves a share of every processor to others (sched(7)).
void drop_privileges();

// The system call filter, for all threads to come. A forbidden call fails with EPERM; those that
// only a hijacked process would make (exec, ptrace, other processes' memory) kill the process.
// `with_ring`: a WriteRing that was made before may be used.
void filter_system_calls(bool with_ring = false);

}  // namespace godwit
