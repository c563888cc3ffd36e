// Where the taps of a tile of pixels look: computed once by the threads of a block together, kept
// in shared memory and read by all of its channels.
#pragma once

#include "cuda/taps.cuh"

namespace mmdk::cuda {

// What taps look up between the cells: weights in the scope, data in the image, or both.
enum class Look { kScope, kScopeAndImage, kImage };

constexpr bool in_scope(Look look) { return look != Look::kImage; }
constexpr bool in_image(Look look) { return look != Look::kScope; }

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
        if constexpr (in_image(look)) {
          add_in_image(tapping, channels, pixel, source, bordered, tap, entry, place);
        } else {
          const auto at = FixedTap::of<transposed>(tapping.shape, source, pixel, tap);
          if (at.source >= 0 &&
              add_in_scope(tapping, channels, at.output, bordered, tap, entry, place)) {
            place.source = at.source;
          }
        }
      }
      store_shared(places_ + entry, place);
    }
  }

 private:
  static constexpr int64_t kEntry =
      sizeof(Place) + sizeof(Vector<A, 4>) +
      (in_image(look) ? sizeof(Vector<int64_t, 4>) + sizeof(Vector<A, 4>) * (slopes ? 2 : 1) : 0);

  // False where the look-up is outside.
  __device__ bool add_in_scope(const Tapping& tapping, const Channels& channels,
                               const Pixel& output, bool bordered, int tap, int entry,
                               Place& place) {
    const A factor = read_mask(tapping, channels, output, tap);
    if constexpr (!in_scope(look)) {
      store_shared<4>(weights_[entry].at, {{0, 0, factor, 0}});
      return true;
    } else {
      const ScopeLook<A> at(tapping, channels, tap, output);
      if (!at.inside) return false;
      place.cell = at.cell(tapping.shape, bordered);
      place.existing = at.existing(tapping.shape);
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

  __device__ void add_in_image(const Tapping& tapping, const Channels& channels,
                               const Pixel& output, const Source& source, bool bordered, int tap,
                               int entry, Place& place) {
    const Shape& shape = tapping.shape;
    const ImageCoordinates<A> to(tapping, channels.image_offset_group, tap, output);
    const Lookup<A> at = look_up(to.y, to.x, shape.size[0], shape.size[1]);
    if (!at.inside || !add_in_scope(tapping, channels, output, bordered, tap, entry, place)) return;
    // Its own sources say where the image is read.
    place.source = 0;
    Vector<int64_t, 4> sources;
    Vector<A, 4> values;
    for (int q = 0; q < 4; ++q) {
      sources.at[q] = source.at(output.image, at.y.cell[q / 2] * shape.size[1] + at.x.cell[q % 2]);
    }
    if constexpr (slopes) {
      values = {{at.y.value[0], at.y.value[1], at.x.value[0], at.x.value[1]}};
      store_shared<4>(image_slopes_[entry].at,
                      {{at.y.slope[0], at.y.slope[1], at.x.slope[0], at.x.slope[1]}});
    } else {
      const A factor = read_mask(tapping, channels, output, tap);
      for (int q = 0; q < 4; ++q) {
        values.at[q] = factor * at.y.value[q / 2] * at.x.value[q % 2];
      }
    }
    store_shared<4>(sources_[entry].at, sources);
    store_shared<4>(image_values_[entry].at, values);
  }

  __device__ A read_mask(const Tapping& tapping, const Channels& channels, const Pixel& output,
                         int tap) const {
    return read(tapping.mask, channels.image_offset_group * tapping.shape.taps() + tap, output,
                A(1));
  }

  int tile_;
  Place* places_;
  Vector<A, 4>* weights_;
  Vector<int64_t, 4>* sources_ = nullptr;
  Vector<A, 4>* image_values_ = nullptr;
  Vector<A, 4>* image_slopes_ = nullptr;
};

}  // namespace mmdk::cuda
