// Errors: exceptions that tell a whole story.
//
// An Error says what failed, on which object, why, and what to do about it. Context is added on the
// way up by in_context(), once for each level that knows something more. An outcome that the caller
// will branch on is not an error: such functions have a try_ twin that returns an optional.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <utility>

namespace godwit {

class Error : public std::runtime_error {
 public:
  // `code` is an errno value, or 0 where no system call is behind it.
  explicit Error(std::string story, int code = 0, std::string hint = {})
      : std::runtime_error(story), code_(code), hint_(std::move(hint)) {}

  int code() const { return code_; }
  // One sentence that says what to do; empty when there is nothing to advise.
  const std::string& hint() const { return hint_; }

  Error with_hint(std::string hint) const { return Error(what(), code_, std::move(hint)); }
  Error in(const std::string& context) const {
    return Error(context + ": " + what(), code_, hint_);
  }

 private:
  int code_;
  std::string hint_;
};

// A migration that must not begin (preflight): nothing has been touched. Exit code 2.
class Refused : public Error {
 public:
  // `id` is the stable name that docs/operations.md lists, such as "pid-is-zombie".
  Refused(std::string id, std::string story, std::string hint = {})
      : Error(std::move(story), 0, std::move(hint)), id_(std::move(id)) {}
  const std::string& id() const { return id_; }

 private:
  std::string id_;
};

// Text of an errno value, without the locale.
std::string errno_text(int code);

// Throws Error{"<what>: <text of errno>", errno}. Read errno on the line after the call: pass it.
[[noreturn]] void throw_errno(int code, const std::string& what);

template <typename... Args>
[[noreturn]] void throw_system(fmt::format_string<Args...> format, Args&&... args) {
  const int code = errno;
  throw_errno(code, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Runs `body`; an Error that leaves it gets "<context>: " in front.
template <typename Body, typename... Args>
decltype(auto) in_context(Body&& body, fmt::format_string<Args...> format, Args&&... args) {
  try {
    return std::forward<Body>(body)();
  } catch (const Refused& error) {
    throw;
  } catch (const Error& error) {
    throw error.in(fmt::format(format, std::forward<Args>(args)...));
  }
}

}  // namespace godwit
