#include "common/base/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdio>
#include <mutex>

namespace godwit {
namespace {

std::atomic<LogLevel> current_level{LogLevel::kWarning};

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

// Lines that can't be written are lost: whoever works on goes on.
class LineSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void set_writer(std::function<void(std::string_view)> writer) {
    const std::lock_guard lock(mutex_);
    writer_ = std::move(writer);
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t text;
    formatter_->format(message, text);
    if (writer_) {
      writer_({text.data(), text.size()});
    } else {
      std::fwrite(text.data(), 1, text.size(), stderr);
    }
  }
  void flush_() override { std::fflush(stderr); }

 private:
  std::function<void(std::string_view)> writer_;
};

}  // namespace

void set_up_log(std::string_view program, LogLevel level) {
  current_level = level;
  auto logger =
      std::make_shared<spdlog::logger>(std::string(program), std::make_shared<LineSink>());
  logger->set_pattern("%H:%M:%S.%f %n[%P] %l: %v");
  logger->set_level(to_spdlog(level));
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

LogLevel log_level() { return current_level; }

void set_log_writer(std::function<void(std::string_view)> writer) {
  for (const auto& sink : spdlog::default_logger()->sinks()) {
    if (auto* lines = dynamic_cast<LineSink*>(sink.get())) lines->set_writer(std::move(writer));
  }
}

void log_text(LogLevel level, std::string_view text) { spdlog::log(to_spdlog(level), "{}", text); }

}  // namespace godwit
