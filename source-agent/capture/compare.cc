// Compares two descriptions of what should be one process: the other half of
// common/model/describe.h.
#include <google/protobuf/util/message_differencer.h>

#include <memory>
#include <sstream>

#include "common/base/error.h"
#include "common/model/describe.h"
#include "source-agent/capture/fd_compare.h"

namespace godwit {
namespace {

using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;

// Numbers that the kernel or another host gives, and times that run on.
constexpr const char* kMayDiffer[] = {
    "godwit.proto.TaskIdentity.host_pid",
    "godwit.proto.TaskIdentity.session",
    "godwit.proto.TaskIdentity.group",
    "godwit.proto.TaskIdentity.start_time_ticks",
    "godwit.proto.Thread.host_tid",
    "godwit.proto.Thread.blocked_call",
    "godwit.proto.Mapping.shared_object",
    "godwit.proto.FileIdentity.modified_ns",
    "godwit.proto.IntervalTimer.remaining_ns",
    "godwit.proto.PosixTimer.remaining_ns",
    "godwit.proto.PosixTimer.overrun",
    "godwit.proto.Process.fd_table",  // compare_fd_tables()
};

const google::protobuf::FieldDescriptor* field(const char* full_name) {
  const auto* found =
      google::protobuf::DescriptorPool::generated_pool()->FindFieldByName(full_name);
  if (found == nullptr) fail("no field {}", full_name);
  return found;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty() && !line.starts_with("ignored: ")) lines.push_back(line);
  }
  return lines;
}

}  // namespace

std::vector<std::string> compare_processes(const proto::Process& expected,
                                           const proto::Process& found) {
  MessageDifferencer differencer;
  std::string text;
  differencer.ReportDifferencesToString(&text);
  for (const char* name : kMayDiffer) differencer.IgnoreField(field(name));
  // The order is that of making; a thread that was made late at the source was not made late here.
  differencer.TreatAsMap(field("godwit.proto.Process.threads"), field("godwit.proto.Thread.tid"));
  differencer.set_message_field_comparison(MessageDifferencer::EQUIVALENT);
  std::vector<std::string> lines;
  if (!differencer.Compare(expected, found)) lines = lines_of(text);
  for (std::string& line : compare_fd_tables(expected.fd_table(), found.fd_table())) {
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace godwit
