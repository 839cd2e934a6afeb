#include "page-server/page_server.h"

#include <sched.h>
#include <unistd.h>

#include "common/base/log.h"

namespace godwit {

bool works_on_two_threads(std::uint32_t asked) {
  if (asked != 0) return asked > 1;
  cpu_set_t processors;
  CPU_ZERO(&processors);
  // More processors than the set has room for are more than two.
  return sched_getaffinity(0, sizeof(processors), &processors) != 0 || CPU_COUNT(&processors) > 2;
}

void die(PageServiceLink& link, const std::string& story) {
  log_debug("failed: {}", story);
  try {
    proto::PageReport report;
    report.mutable_failed()->set_story(story);
    link.send(report);
  } catch (const std::exception& error) {
    log_error("{} (and the agent cannot be told: {})", story, error.what());
  }
  _exit(1);  // other threads may wait for good; nothing here needs putting right
}

UniqueFd take_fd(PageServiceLink::Order& order, std::size_t index, const char* what) {
  if (index >= order.fds.size() || !order.fds[index].valid()) {
    fail("order without its descriptor: {}", what);
  }
  return std::move(order.fds[index]);
}

ImageLevel take_image_level(PageServiceLink::Order& order) {
  return {take_fd(order, 0, "index"), take_fd(order, 1, "pages"),
          order.order.add_image_level().name()};
}

}  // namespace godwit
