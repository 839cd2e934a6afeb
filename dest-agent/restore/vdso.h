// Where a skeleton's vDSO comes to stand (vdso(7), mremap(2)).
//
// Under the same kernel as the source's: where the source's was. Under another one: where nothing
// of the description is, and the image that the program knows stands in for it at the old place.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "common/base/page_range.h"
#include "common/remote/remote_task.h"
#include "proto/mappings.pb.h"

namespace godwit {

struct VdsoPlace {
  PageRange code;                     // of this kernel's
  std::optional<PageRange> stand_in;  // of the source's
  PageRange block;                    // then: all parts of this kernel's
};

bool is_vdso_part(std::string_view path);

// Moves the parts of the stopped skeleton. `source_image`: the vDSO of the source's kernel; empty:
// the same as here. Throws Error.
VdsoPlace place_vdso(RemoteTask& task, const proto::Mappings& want,
                     std::span<const std::byte> source_image);

}  // namespace godwit
