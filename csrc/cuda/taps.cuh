// Which pixels the taps of an output look at, and where in the scope.
#pragma once

#include "common/bilinear.h"
#include "cuda/memory.cuh"
#include "cuda/partition.h"
#include "cuda/shape.h"

namespace mmdk::cuda {

struct Pixel {
  int64_t image, number, y, x;
};

// Pixels `first_pixel` on of the images `first_image` on.
struct PixelGrid {
  int64_t first_image, images, first_pixel, pixels, width;

  static PixelGrid whole(int64_t images, const int64_t (&size)[2]) {
    return {0, images, 0, size[0] * size[1], size[1]};
  }

  __device__ Pixel at(int64_t index) const {
    const int64_t image = divide(index, pixels);
    const int64_t number = first_pixel + index - image * pixels;
    const int64_t y = divide(number, width);
    return {first_image + image, number, y, number - y * width};
  }
  __device__ bool contains(int64_t image, int64_t number) const {
    return image >= first_image && image < first_image + images && number >= first_pixel &&
           number < first_pixel + pixels;
  }
};

// Activations of a grid of pixels: strides from one to the next.
struct Source {
  PixelGrid grid;
  int64_t image, pixel;

  __device__ int64_t at(int64_t n, int64_t number) const {
    return (n - grid.first_image) * image + (number - grid.first_pixel) * pixel;
  }
};

// All that says where taps look.
struct Tapping {
  Shape shape;
  Offsets kernel_offset, image_offset, mask;
};

// One number of an argument, or `absent` where there is no such argument.
template <typename A>
__device__ __forceinline__ A read(const Offsets& offsets, int64_t channel, const Pixel& pixel,
                                  A absent) {
  const int64_t at = pixel.image * offsets.view.image + channel * offsets.view.channel +
                     pixel.number * offsets.view.pixel;
  switch (offsets.storage) {
    case Storage::kAccumulation:
      return load_global(static_cast<const A*>(offsets.view.data) + at).at[0];
    case Storage::kHalf:
      return load_global(static_cast<const c10::Half*>(offsets.view.data) + at).at[0];
    case Storage::kBFloat16:
      return load_global(static_cast<const c10::BFloat16*>(offsets.view.data) + at).at[0];
    default:
      return absent;
  }
}

// A look-up in the scope: the first of its cells, which of the four exist, and how far beyond the
// first it lies.
template <typename A>
struct ScopeLook {
  bool inside = false;
  int y = 0, x = 0;
  A fraction_y = 0, fraction_x = 0;

  // Of a tap of an output, whose offsets are those of the channels.
  __device__ ScopeLook(const Tapping& tapping, const Channels& channels, int tap,
                       const Pixel& output) {
    const Shape& shape = tapping.shape;
    const int64_t channel = (channels.kernel_offset_group * shape.taps() + tap) * 2;
    const A offset_y = read(tapping.kernel_offset, channel, output, A(0));
    const A offset_x = read(tapping.kernel_offset, channel + 1, output, A(0));
    const A at_y =
        rest_coordinate<A>(tap / shape.kernel[1], shape.kernel[0], shape.scope[0]) + offset_y;
    const A at_x =
        rest_coordinate<A>(tap % shape.kernel[1], shape.kernel[1], shape.scope[1]) + offset_x;
    // Written so that a NaN coordinate is outside.
    inside = at_y > A(-1) && at_y < A(shape.scope[0]) && at_x > A(-1) && at_x < A(shape.scope[1]);
    if (!inside) return;
    const A lower_y = std::floor(at_y), lower_x = std::floor(at_x);
    y = static_cast<int>(lower_y);
    x = static_cast<int>(lower_x);
    fraction_y = at_y - lower_y;
    fraction_x = at_x - lower_x;
  }

  // The first of the four, in the scope or in one with a border.
  __device__ int cell(const Shape& shape, bool bordered) const {
    return bordered ? (y + 1) * shape.bordered_width() + x + 1 : y * shape.scope[1] + x;
  }

  // In bit q, whether cell q exists.
  __device__ int existing(const Shape& shape) const {
    const int rows = (y >= 0 ? 1 : 0) | (y + 1 < shape.scope[0] ? 2 : 0);
    const int columns = (x >= 0 ? 1 : 0) | (x + 1 < shape.scope[1] ? 2 : 0);
    return (rows & 1 ? columns : 0) | (rows & 2 ? columns << 2 : 0);
  }
};

// The bilinear weights of four cells.
template <typename A>
__device__ __forceinline__ Vector<A, 4> bilinear_weights(A y, A x) {
  return {{(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x}};
}

// Where a tap of an output looks in the image.
template <typename A>
struct ImageCoordinates {
  A y, x;

  __device__ ImageCoordinates(const Tapping& tapping, int64_t image_offset_group, int tap,
                              const Pixel& output) {
    const Shape& shape = tapping.shape;
    const int64_t channel = (image_offset_group * shape.taps() + tap) * 2;
    y = A(output.y * shape.stride[0] - shape.padding[0] +
          tap / shape.kernel[1] * shape.dilation[0]) +
        read(tapping.image_offset, channel, output, A(0));
    x = A(output.x * shape.stride[1] - shape.padding[1] +
          tap % shape.kernel[1] * shape.dilation[1]) +
        read(tapping.image_offset, channel + 1, output, A(0));
  }
};

// A tap that looks at a fixed pixel: of the output at `pixel`, or, when `transposed`, of the output
// that looks at the input `pixel` by this tap. `source` is negative where there is none.
struct FixedTap {
  int64_t source = -1;
  Pixel output;

  template <bool transposed>
  static __device__ FixedTap of(const Shape& shape, const Source& source, const Pixel& pixel,
                                int tap) {
    const int64_t down = tap / shape.kernel[1] * shape.dilation[0];
    const int64_t right = tap % shape.kernel[1] * shape.dilation[1];
    if constexpr (transposed) {
      const int64_t from_y = pixel.y + shape.padding[0] - down;
      const int64_t from_x = pixel.x + shape.padding[1] - right;
      if (from_y < 0 || from_x < 0) return {};
      const int64_t y = divide(from_y, shape.stride[0]), x = divide(from_x, shape.stride[1]);
      if (y * shape.stride[0] != from_y || x * shape.stride[1] != from_x ||
          y >= shape.out_size[0] || x >= shape.out_size[1]) {
        return {};
      }
      const Pixel output{pixel.image, y * shape.out_size[1] + x, y, x};
      if (!source.grid.contains(output.image, output.number)) return {};
      return {source.at(output.image, output.number), output};
    } else {
      const int64_t y = pixel.y * shape.stride[0] - shape.padding[0] + down;
      const int64_t x = pixel.x * shape.stride[1] - shape.padding[1] + right;
      if (y < 0 || y >= shape.size[0] || x < 0 || x >= shape.size[1]) return {};
      return {source.at(pixel.image, y * shape.size[1] + x), pixel};
    }
  }
};

}  // namespace mmdk::cuda
