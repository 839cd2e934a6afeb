// One whole image out of one and its bases.
#pragma once

#include <string>

#include "common/image/image.h"

namespace godwit {

// Makes the image `id` in the directory `path` (see ImageTarget), with the state of `image` and all
// of its pages. Throws what ImageTarget and ImagePages throw.
void merge_image(const Image& image, const std::string& path, const std::string& id, Codec codec);

}  // namespace godwit
