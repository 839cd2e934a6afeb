// A restore whose process runs before its pages are there: they come from the image while it runs.
//
//   keeper    the command itself: holds the userfaultfds, what is missing of them, and the image's
//             files, and starts a session in the place of one that was killed
//   session   restores, and stays until every page is there
//
// As long as either lives nobody finds zeros where a page is missing (post_copy.h).
#pragma once

#include <functional>
#include <vector>

#include "common/image/image_pages.h"
#include "common/model/report.h"
#include "dest-agent/options.h"
#include "dest-agent/post_copy.h"

namespace godwit {

// Pages that nobody has any more, and what became of those who want them.
class LostImagePages {
 public:
  // Ends the process where the kernel can't give it SIGBUS for them.
  void take(const proto::LostPages& lost, pid_t host_pid);
  // Nothing when nothing is lost.
  std::optional<ErrorReport> story() const;

 private:
  std::string first_;
  std::uint64_t pages_ = 0;
  bool ended_ = false;
};

// Starts the page server's work on an image.
void send_image(PageServiceLink& link, const std::vector<ImageLevel>& levels,
                const proto::PlayImage& order);
// Goes on for a page server that is gone, and for the next one, until every page is there.
void fill_in_pages(const std::vector<ImageLevel>& levels, const DestOptions& options,
                   PostCopy& post_copy, pid_t host_pid, LostImagePages& lost);

// In the keeper. `session(link)` restores and returns an exit code; `resume(link, held)` goes on
// for a session that was killed when its process ran. Returns the exit code of the last one.
struct RestoreSessions {
  std::function<int(int link)> restore;
  std::function<int(int link, std::vector<Passed> held)> resume;
  std::function<bool()> is_running;  // the process, after its session was killed
};
int keep_restore(const RestoreSessions& sessions);

// From here on neither a terminal nor a polite request ends this program.
void outlive_signals();

}  // namespace godwit
