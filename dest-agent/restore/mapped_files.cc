#include "dest-agent/restore/mapped_files.h"

#include <sys/stat.h>

#include <cerrno>
#include <future>

#include "common/base/error.h"
#include "common/kernel/proc_maps.h"

namespace godwit {

namespace {

bool is_same_file(const struct stat& here, const proto::FileIdentity& file) {
  const std::int64_t changed_ns = here.st_ctim.tv_sec * 1'000'000'000LL + here.st_ctim.tv_nsec;
  return file.changed_ns() != 0 && changed_ns == file.changed_ns() && here.st_ino == file.inode();
}

}  // namespace

std::vector<FileDifference> compare_files(const proto::Mappings& mappings) {
  std::vector<FileDifference> differences;
  std::vector<std::pair<std::future<std::uint64_t>, const proto::FileIdentity*>> hashes;
  for (const proto::FileIdentity& file : mappings.files()) {
    const bool is_code = file.executable();
    const char* missing = is_code ? "executable-or-library-missing" : "mapped-file-missing";
    const char* different = is_code ? "executable-or-library-different" : "mapped-file-different";
    struct stat here {};
    if (::stat(file.path().c_str(), &here) != 0) {
      differences.push_back({missing, file.path(), errno_text(errno)});
    } else if (file.content_hash() != 0 &&
               static_cast<std::uint64_t>(here.st_size) != file.bytes()) {
      differences.push_back(
          {different, file.path(),
           fmt::format("has {} bytes here and {} at the source", here.st_size, file.bytes())});
    } else if (file.content_hash() != 0 && !is_same_file(here, file)) {
      // Each on a thread of its own: it is a matter of some ten milliseconds, for which a service
      // waits.
      hashes.emplace_back(std::async(std::launch::async, hash_file, file.path()), &file);
    }
  }
  for (auto& [hash, file] : hashes) {
    if (hash.get() == file->content_hash()) continue;
    differences.push_back(
        {file->executable() ? "executable-or-library-different" : "mapped-file-different",
         file->path(), "has other content here"});
  }
  return differences;
}

}  // namespace godwit
