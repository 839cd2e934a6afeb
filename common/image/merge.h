// One whole image out of one and its bases.
#pragma once

#include <string>

#include "common/image/image.h"

namespace godwit {

// Makes the image `id` in the directory `path` (see ImageTarget), with the state of `image` and all
// of its pages. Throws what ImageTarget and ImagePages throw.
void merge_image(const Image& image, const std::string& path, const std::string& id, Codec codec);

// Puts what merge_image() would make in the place of `image`, under its own id: images that rest on
// it still do.
void make_whole(const Image& image);

}  // namespace godwit
