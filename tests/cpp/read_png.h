// Pictures as libpng reads them.
#pragma once

#include <stdexcept>
#include <string>

#include <png.h>

#include "driver/io/png.h"

namespace ptyle::driver::tests {

inline Image read_png(const std::string& path) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_file(&png, path.c_str()) == 0) {
    throw std::runtime_error(path + ": cannot be read: " + png.message);
  }
  png.format = PNG_FORMAT_RGB;
  Image image{png.height, png.width, {}};
  image.rgb.resize(PNG_IMAGE_SIZE(png));
  if (png_image_finish_read(&png, nullptr, image.rgb.data(), 0, nullptr) == 0) {
    throw std::runtime_error(path + ": cannot be read: " + png.message);
  }
  return image;
}

}  // namespace ptyle::driver::tests
