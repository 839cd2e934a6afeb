#include "dest-agent/restore/mapped_files.h"

#include <sys/stat.h>

#include <cerrno>

#include "common/base/error.h"
#include "common/kernel/proc_maps.h"

namespace godwit {

std::vector<FileDifference> compare_files(const proto::Mappings& mappings) {
  std::vector<FileDifference> differences;
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
    } else if (file.content_hash() != 0 && hash_file(file.path()) != file.content_hash()) {
      differences.push_back({different, file.path(), "has other content here"});
    }
  }
  return differences;
}

}  // namespace godwit
