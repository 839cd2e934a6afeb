// Regular files: offsets, access modes, O_APPEND, descriptors that share an open file,
// close-on-exec.
#include <sys/stat.h>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

struct Files {
  std::string data;     // path of a file that is read and written in turn
  std::string log;      // path of one that is only appended to
  int writer = -1;      // O_RDWR
  int twin = -1;        // duplicate of writer: one offset
  int reader = -1;      // O_RDONLY, an open file of its own
  int appender = -1;    // O_WRONLY | O_APPEND
  int unreadable = -1;  // O_WRONLY
  int far = -1;         // a high number, close-on-exec
  std::uint64_t turns = 0;
  std::int64_t read_offset = 0;
};

constexpr int kFarNumber = 700;
constexpr std::int64_t kRecord = 64;

std::string record(std::uint64_t turn) {
  std::string text = "turn " + std::to_string(turn) + " ";
  text.resize(kRecord - 1, '.');
  return text + "\n";
}

void set_up(Files& files) {
  files.data = selfcheck::status_path() + ".donn\xe9s";  // no UTF-8
  files.log = selfcheck::status_path() + ".log";
  files.writer =
      must(open(files.data.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0640), "open the data file");
  files.twin = must(dup(files.writer), "dup");
  files.reader = must(open(files.data.c_str(), O_RDONLY | O_CLOEXEC), "open for reading");
  files.appender =
      must(open(files.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600), "open the log");
  files.unreadable = must(open(files.log.c_str(), O_WRONLY | O_NONBLOCK), "open for writing");
  files.far = must(fcntl(files.writer, F_DUPFD_CLOEXEC, kFarNumber), "F_DUPFD");
}

void check_flags(const Files& files) {
  const auto flags = [](int fd) { return must(fcntl(fd, F_GETFL), "F_GETFL"); };
  expect_equal(flags(files.writer) & O_ACCMODE, O_RDWR, "access mode of the writer");
  expect_equal(flags(files.reader) & O_ACCMODE, O_RDONLY, "access mode of the reader");
  expect_equal(flags(files.appender) & (O_ACCMODE | O_APPEND), O_WRONLY | O_APPEND,
               "appender's flags");
  expect_equal(flags(files.unreadable) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_WRONLY | O_NONBLOCK,
               "flags of the file for writing");
  expect_equal(fcntl(files.far, F_GETFD), FD_CLOEXEC, "close-on-exec of the far duplicate");
  expect_equal(fcntl(files.reader, F_GETFD), FD_CLOEXEC, "close-on-exec of the reader");
  expect_equal(fcntl(files.writer, F_GETFD), 0, "no close-on-exec of the writer");
  char byte = 0;
  expect(read(files.unreadable, &byte, 1) == -1 && errno == EBADF,
         "a file for writing can be read");
  expect(write(files.reader, &byte, 1) == -1 && errno == EBADF,
         "a file for reading can be written");
}

void turn(Files& files) {
  const std::int64_t end = static_cast<std::int64_t>(files.turns) * kRecord;
  // All three numbers are one open file: each write goes on where the other ended.
  const int via[] = {files.writer, files.twin, files.far};
  expect_equal(lseek(files.twin, 0, SEEK_CUR), end, "the shared offset");
  const std::string text = record(files.turns);
  expect_equal(write(via[files.turns % 3], text.data(), text.size()), kRecord, "write");
  for (const int fd : via)
    expect_equal(lseek(fd, 0, SEEK_CUR), end + kRecord, "one offset for all");
  // The reader has its own, and lags behind.
  if (files.turns % 2 == 1) {
    char block[kRecord];
    expect_equal(lseek(files.reader, 0, SEEK_CUR), files.read_offset, "the reader's offset");
    expect_equal(read(files.reader, block, sizeof block), kRecord, "read");
    expect(std::string(block, kRecord) ==
               record(static_cast<std::uint64_t>(files.read_offset / kRecord)),
           "the reader got another record");
    files.read_offset += kRecord;
  }
  must(lseek(files.appender, 0, SEEK_SET), "rewind the log");
  expect_equal(write(files.appender, text.data(), text.size()), kRecord, "append");
  ++files.turns;
  check_flags(files);
}

void final_check(Files& files) {
  for (const std::string& path : {files.data, files.log}) {
    const int fd = must(open(path.c_str(), O_RDONLY), "open " + path);
    for (std::uint64_t at = 0; at < files.turns; ++at) {
      char block[kRecord];
      expect_equal(read(fd, block, sizeof block), kRecord, "length of " + path);
      expect(std::string(block, kRecord) == record(at),
             "record " + std::to_string(at) + " of " + path);
    }
    char byte = 0;
    expect_equal(read(fd, &byte, 1), 0, path + " is longer than what was written");
    close(fd);
    unlink(path.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  Files files;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(files); }, [&] { turn(files); }, [&] { final_check(files); });
}
