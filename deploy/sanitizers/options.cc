// Linked into every program of the sanitizer builds. The options are compiled in, because page
// servers start without an environment.

// Signal handlers are captured and restored like any others: the sanitizers add none of their own.
// Leaks are looked for by a thread that attaches with ptrace(2), which what is traced can't have.
extern "C" const char* __asan_default_options() {
  return "handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0:"
         "allow_user_segv_handler=1:use_sigaltstack=0:detect_leaks=0:abort_on_error=0";
}

extern "C" const char* __ubsan_default_options() { return "halt_on_error=1:print_stacktrace=1"; }

// Tests fork from programs that have threads.
extern "C" const char* __tsan_default_options() {
  return "handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0:"
         "use_sigaltstack=0:die_after_fork=0:halt_on_error=1";
}
