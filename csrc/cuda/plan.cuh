// Where the taps of a tile of pixels look: computed once by the threads of a block together, kept
// in shared memory and read by all of its channels.
#pragma once

#include "common/bilinear.h"
#include "cuda/memory.cuh"
#include "cuda/partition.h"
#include "cuda/shape.h"

namespace mmdk::cuda {

// What taps look up between the cells: weights in the scope, data in the image, or both.
enum class Look { kScope, kScopeAndImage, kImage };

constexpr bool in_scope(Look look) { return look != Look::kImage; }
constexpr bool in_image(Look look) { return look != Look::kScope; }

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

  __device__ ScopeLook(const Shape& shape, int tap, A offset_y, A offset_x) {
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

// Of one tap of one pixel; `source` is negative where it contributes nothing.
struct alignas(16) Place {
  int64_t source;
  int32_t cell;      // of the scope, the first of four; or the tap
  int32_t existing;  // bits of those four cells
};

// Entries of a plan for `tile` pixels and up to `capacity` taps, in shared memory.
//
// Without slopes a tap's `weights` are the bilinear ones of its cells, times its mask unless it
// looks up the image; then image_values have that factor. With slopes they are the two fractions
// and the mask.
template <typename A, Look look, bool slopes>
class Plan {
 public:
  static MMDK_HOST_DEVICE int64_t bytes(int64_t entries) { return entries * kEntry; }

  __device__ Plan(unsigned char* memory, int tile, int capacity) : tile_(tile) {
    const int entries = tile * capacity;
    places_ = reinterpret_cast<Place*>(memory);
    weights_ = reinterpret_cast<Vector<A, 4>*>(places_ + entries);
    if constexpr (in_image(look)) {
      sources_ = reinterpret_cast<Vector<int64_t, 4>*>(weights_ + entries);
      image_values_ = reinterpret_cast<Vector<A, 4>*>(sources_ + entries);
      if constexpr (slopes) image_slopes_ = image_values_ + entries;
    }
  }

  __device__ Place place(int tap, int pixel) const {
    return load_shared(places_ + tap * tile_ + pixel).at[0];
  }
  __device__ Vector<A, 4> weights(int tap, int pixel) const {
    return load_shared<4>(weights_[tap * tile_ + pixel].at);
  }
  __device__ Vector<int64_t, 4> sources(int tap, int pixel) const {
    return load_shared<4>(sources_[tap * tile_ + pixel].at);
  }
  __device__ Vector<A, 4> image_values(int tap, int pixel) const {
    return load_shared<4>(image_values_[tap * tile_ + pixel].at);
  }
  __device__ Vector<A, 4> image_slopes(int tap, int pixel) const {
    return load_shared<4>(image_slopes_[tap * tile_ + pixel].at);
  }

  // Of taps `first_tap` on at pixels `first_pixel` on of `pixels`, which are outputs, or, when
  // `transposed`, the inputs that outputs look at. `bordered`: cells are those of a scope with a
  // border.
  template <bool transposed>
  __device__ void build(const Tapping& tapping, const Channels& channels, const PixelGrid& pixels,
                        const Source& source, bool bordered, int64_t first_pixel, int count,
                        int first_tap, int taps) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const int threads = blockDim.x * blockDim.y;
    for (int entry = thread; entry < taps * tile_; entry += threads) {
      const int index = entry % tile_, tap = first_tap + entry / tile_;
      Place place{-1, tap, 0};
      if (index < count) {
        const Pixel pixel = pixels.at(first_pixel + index);
        if constexpr (transposed) {
          add_transposed(tapping, channels, pixel, source, bordered, tap, entry, place);
        } else {
          add(tapping, channels, pixel, source, bordered, tap, entry, place);
        }
      }
      store_shared(places_ + entry, place);
    }
  }

 private:
  static constexpr int64_t kEntry =
      sizeof(Place) + sizeof(Vector<A, 4>) +
      (in_image(look) ? sizeof(Vector<int64_t, 4>) + sizeof(Vector<A, 4>) * (slopes ? 2 : 1) : 0);

  __device__ void add(const Tapping& tapping, const Channels& channels, const Pixel& pixel,
                      const Source& source, bool bordered, int tap, int entry, Place& place) {
    const Shape& shape = tapping.shape;
    const int64_t y =
        pixel.y * shape.stride[0] - shape.padding[0] + tap / shape.kernel[1] * shape.dilation[0];
    const int64_t x =
        pixel.x * shape.stride[1] - shape.padding[1] + tap % shape.kernel[1] * shape.dilation[1];
    const A factor =
        read(tapping.mask, channels.image_offset_group * shape.taps() + tap, pixel, A(1));
    bool exists;
    if constexpr (in_image(look)) {
      exists = look_up_image(tapping, channels, pixel, source, y, x, tap, factor, entry);
    } else {
      exists = y >= 0 && y < shape.size[0] && x >= 0 && x < shape.size[1];
    }
    if (!exists || !look_up_scope(tapping, channels, pixel, bordered, tap, factor, entry, place)) {
      return;
    }
    // Where the image is looked up, its own sources say where.
    place.source = in_image(look) ? 0 : source.at(pixel.image, y * shape.size[1] + x);
  }

  // Of the output that looks at the pixel by this tap, if there is one.
  __device__ void add_transposed(const Tapping& tapping, const Channels& channels,
                                 const Pixel& pixel, const Source& source, bool bordered, int tap,
                                 int entry, Place& place) {
    const Shape& shape = tapping.shape;
    const int64_t from_y = pixel.y + shape.padding[0] - tap / shape.kernel[1] * shape.dilation[0];
    const int64_t from_x = pixel.x + shape.padding[1] - tap % shape.kernel[1] * shape.dilation[1];
    if (from_y < 0 || from_x < 0) return;
    const int64_t y = divide(from_y, shape.stride[0]), x = divide(from_x, shape.stride[1]);
    if (y * shape.stride[0] != from_y || x * shape.stride[1] != from_x || y >= shape.out_size[0] ||
        x >= shape.out_size[1]) {
      return;
    }
    const Pixel output{pixel.image, y * shape.out_size[1] + x, y, x};
    if (!source.grid.contains(output.image, output.number)) return;
    const A factor =
        read(tapping.mask, channels.image_offset_group * shape.taps() + tap, output, A(1));
    if (!look_up_scope(tapping, channels, output, bordered, tap, factor, entry, place)) return;
    place.source = source.at(output.image, output.number);
  }

  // False where the look-up is outside.
  __device__ bool look_up_scope(const Tapping& tapping, const Channels& channels,
                                const Pixel& pixel, bool bordered, int tap, A factor, int entry,
                                Place& place) {
    const Shape& shape = tapping.shape;
    if constexpr (!in_scope(look)) {
      store_shared<4>(weights_[entry].at, {{0, 0, factor, 0}});
      return true;
    } else {
      const int64_t channel = (channels.kernel_offset_group * shape.taps() + tap) * 2;
      const ScopeLook<A> at(shape, tap, read(tapping.kernel_offset, channel, pixel, A(0)),
                            read(tapping.kernel_offset, channel + 1, pixel, A(0)));
      if (!at.inside) return false;
      place.cell = at.cell(shape, bordered);
      place.existing = at.existing(shape);
      if constexpr (slopes) {
        store_shared<4>(weights_[entry].at, {{at.fraction_y, at.fraction_x, factor, 0}});
      } else {
        auto weights = bilinear_weights(at.fraction_y, at.fraction_x);
        if constexpr (!in_image(look)) {
          for (A& weight : weights.at) weight *= factor;
        }
        store_shared<4>(weights_[entry].at, weights);
      }
      return true;
    }
  }

  __device__ bool look_up_image(const Tapping& tapping, const Channels& channels,
                                const Pixel& pixel, const Source& source, int64_t y, int64_t x,
                                int tap, A factor, int entry) {
    const Shape& shape = tapping.shape;
    const int64_t channel = (channels.image_offset_group * shape.taps() + tap) * 2;
    const Lookup<A> at = look_up(A(y) + read(tapping.image_offset, channel, pixel, A(0)),
                                 A(x) + read(tapping.image_offset, channel + 1, pixel, A(0)),
                                 shape.size[0], shape.size[1]);
    if (!at.inside) return false;
    Vector<int64_t, 4> sources;
    Vector<A, 4> values;
    for (int q = 0; q < 4; ++q) {
      sources.at[q] = source.at(pixel.image, at.y.cell[q / 2] * shape.size[1] + at.x.cell[q % 2]);
    }
    if constexpr (slopes) {
      values = {{at.y.value[0], at.y.value[1], at.x.value[0], at.x.value[1]}};
      store_shared<4>(image_slopes_[entry].at,
                      {{at.y.slope[0], at.y.slope[1], at.x.slope[0], at.x.slope[1]}});
    } else {
      for (int q = 0; q < 4; ++q) {
        values.at[q] = factor * at.y.value[q / 2] * at.x.value[q % 2];
      }
    }
    store_shared<4>(sources_[entry].at, sources);
    store_shared<4>(image_values_[entry].at, values);
    return true;
  }

  int tile_;
  Place* places_;
  Vector<A, 4>* weights_;
  Vector<int64_t, 4>* sources_ = nullptr;
  Vector<A, 4>* image_values_ = nullptr;
  Vector<A, 4>* image_slopes_ = nullptr;
};

}  // namespace mmdk::cuda
