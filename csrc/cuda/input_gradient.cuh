// The gradient of an input from what arrives at its taps. Three ways: from the columns' gradient
// where taps look at fixed pixels; where they look between pixels, by atomic additions, or from
// look-ups sorted by the pixel they read, whose sums have one order.
#pragma once

#include "cuda/arriving.cuh"

namespace mmdk::cuda {

template <typename T>
struct InputGradient {
  using A = at::opmath_type<T>;

  Tapping tapping;
  ChannelBlocks channels;
  PixelRuns runs;
  int capacity;  // taps of a plan

  PixelGrid pixels;  // over which the threads are shared out: inputs, or outputs when scattering
  Gradients<T> gradients;
  A* sums;        // are added to
  Source target;  // of the whole input

  // Sorted look-ups only: see LookUps.
  const int64_t* order;
  const int64_t* starts;
};

// Taps that look at fixed pixels: what arrives at an input from all outputs that look at it.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    columns_input_gradient(const InputGradient<T> call) {
  using A = at::opmath_type<T>;
  const Shape& shape = call.tapping.shape;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int tile = call.runs.tile(), taps = shape.taps();
  const int channel = threadIdx.x * N;
  const bool active = channel < channels.count;

  unsigned char* const memory = shared_memory();
  const SharedRows<A, N> no_weights(memory, 0, 0);
  Plan<A, Look::kScope, true> plan(memory, tile, call.capacity);
  Arriving<T, N, Look::kScope, true> arriving(call.gradients, shape, no_weights,
                                              channels.first + (active ? channel : 0));
  A* const sums = call.sums + channels.first + channel;

  for (int64_t begin = run.begin; begin < run.end; begin += tile) {
    const int count = static_cast<int>(run.end - begin < tile ? run.end - begin : tile);
    for (int first_tap = 0; first_tap < taps; first_tap += call.capacity) {
      const int planned = taps - first_tap < call.capacity ? taps - first_tap : call.capacity;
      __syncthreads();
      plan.template build<true>(call.tapping, channels, call.pixels, call.gradients.source,
                                /*bordered=*/false, begin, count, first_tap, planned);
      __syncthreads();
      if (!active) continue;
      for (int pixel = threadIdx.y; pixel < count; pixel += blockDim.y) {
        const Pixel at = call.pixels.at(begin + pixel);
        A* const to = sums + call.target.at(at.image, at.number);
        Vector<A, N> sum = load_global<N>(to);
        for (int tap = 0; tap < planned; ++tap) {
          const Place place = plan.place(tap, pixel);
          if (place.source < 0) continue;
          const auto look = plan.weights(tap, pixel);  // fractions and mask
          arriving.move_to_place(place.source);
          add_scaled(sum, look.at[2], arriving.value(place, look.at[0], look.at[1]));
        }
        store_global(to, sum);
      }
    }
  }
}

// Each tap adds to the four pixels around it.
template <typename T, int N, Look look, bool dense>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    scatter_input_gradient(const InputGradient<T> call) {
  using A = at::opmath_type<T>;
  const Shape& shape = call.tapping.shape;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int lanes = blockDim.x, tile = call.runs.tile(), taps = shape.taps();
  const int channel = threadIdx.x * N, weight_rows = dense ? 0 : call.gradients.rows;
  const bool active = channel < channels.count;

  unsigned char* const memory = shared_memory();
  const SharedRows<A, N> weights(memory, lanes, threadIdx.x);
  Plan<A, look, true> plan(memory + SharedRows<A, N>::bytes(weight_rows, lanes), tile,
                           call.capacity);
  if constexpr (!dense) {
    stage(weights, call.gradients.weights + run.image * call.gradients.weights_step, weight_rows,
          shape.channels, channels);
  }
  Arriving<T, N, look, dense> arriving(call.gradients, shape, weights,
                                       channels.first + (active ? channel : 0));
  A* const sums = call.sums + channels.first + channel;

  for (int64_t begin = run.begin; begin < run.end; begin += tile) {
    const int count = static_cast<int>(run.end - begin < tile ? run.end - begin : tile);
    for (int first_tap = 0; first_tap < taps; first_tap += call.capacity) {
      const int planned = taps - first_tap < call.capacity ? taps - first_tap : call.capacity;
      __syncthreads();
      plan.template build<false>(call.tapping, channels, call.pixels, call.target,
                                 /*bordered=*/!dense, begin, count, first_tap, planned);
      __syncthreads();
      if (!active) continue;
      for (int pixel = threadIdx.y; pixel < count; pixel += blockDim.y) {
        const Pixel at = call.pixels.at(begin + pixel);
        arriving.move_to(at.image, at.number);
        for (int tap = 0; tap < planned; ++tap) {
          const Place place = plan.place(tap, pixel);
          if (place.source < 0) continue;
          const auto where = plan.weights(tap, pixel);  // fractions and mask
          const auto value = arriving.value(place, where.at[0], where.at[1]);
          const auto sources = plan.sources(tap, pixel);
          const auto values = plan.image_values(tap, pixel);
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const A weight = where.at[2] * values.at[q / 2] * values.at[2 + q % 2];
            if (weight == 0) continue;
            Vector<A, N> product{};
            add_scaled(product, weight, value);
            add_global(sums + sources.at[q], product);
          }
        }
      }
    }
  }
}

// Look-ups in the image, by the first of the four pixels they read. Entries are (images, offset
// groups, taps, outputs) of a grid of outputs; keys are (images, offset groups, H + 1, W + 1),
// because that pixel may lie one above and one left of the image; one more key is that of look-ups
// outside.
struct LookUps {
  Tapping tapping;
  PixelGrid outputs;
  int64_t groups;
  int64_t* keys;

  __device__ int64_t row() const { return tapping.shape.size[1] + 1; }
  __device__ int64_t key(int64_t image, int64_t group, int64_t y, int64_t x) const {
    return (((image - outputs.first_image) * groups + group) * (tapping.shape.size[0] + 1) + y +
            1) *
               row() +
           x + 1;
  }
};

template <typename A>
struct ImageTap {
  int64_t y, x;  // the first of the four pixels
  A fraction_y, fraction_x;
  bool inside;

  __device__ ImageTap(const Tapping& tapping, int64_t group, int tap, const Pixel& output) {
    const Shape& shape = tapping.shape;
    const ImageCoordinates<A> at(tapping, group, tap, output);
    inside = at.y > A(-1) && at.y < A(shape.size[0]) && at.x > A(-1) && at.x < A(shape.size[1]);
    const A lower_y = inside ? std::floor(at.y) : A(0), lower_x = inside ? std::floor(at.x) : A(0);
    y = static_cast<int64_t>(lower_y);
    x = static_cast<int64_t>(lower_x);
    fraction_y = at.y - lower_y;
    fraction_x = at.x - lower_x;
  }
};

template <typename A>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    key_look_ups(const LookUps call, int64_t entries) {
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (entry >= entries) return;
  const int taps = call.tapping.shape.taps();
  const int64_t row = divide(entry, call.outputs.pixels);
  const int64_t number = entry - row * call.outputs.pixels;
  const int64_t block = divide(row, taps), image = divide(block, call.groups);
  const int64_t group = block - image * call.groups;
  const Pixel output = call.outputs.at(image * call.outputs.pixels + number);
  const ImageTap<A> at(call.tapping, group, static_cast<int>(row - block * taps), output);
  const int64_t outside = call.key(call.outputs.first_image + call.outputs.images, 0, -1, -1);
  store_global(call.keys + entry, at.inside ? call.key(output.image, group, at.y, at.x) : outside);
}

// What arrives at an input from the look-ups that read it, in the order they were sorted in.
template <typename T, int N, Look look, bool dense>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    sorted_input_gradient(const InputGradient<T> call, const LookUps look_ups) {
  using A = at::opmath_type<T>;
  const Shape& shape = call.tapping.shape;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int channel = threadIdx.x * N, weight_rows = dense ? 0 : call.gradients.rows;
  const bool active = channel < channels.count;

  const SharedRows<A, N> weights(shared_memory(), blockDim.x, threadIdx.x);
  if constexpr (!dense) {
    stage(weights, call.gradients.weights + run.image * call.gradients.weights_step, weight_rows,
          shape.channels, channels);
  }
  __syncthreads();
  if (!active) return;
  Arriving<T, N, look, dense> arriving(call.gradients, shape, weights, channels.first + channel);

  for (int64_t index = run.begin + threadIdx.y; index < run.end; index += blockDim.y) {
    const Pixel pixel = call.pixels.at(index);
    A* const to = call.sums + channels.first + channel + call.target.at(pixel.image, pixel.number);
    Vector<A, N> sum = load_global<N>(to);
    for (int q = 0; q < 4; ++q) {
      const int64_t key =
          look_ups.key(pixel.image, channels.image_offset_group, pixel.y - q / 2, pixel.x - q % 2);
      const int64_t end = load_global(call.starts + key + 1).at[0];
      for (int64_t i = load_global(call.starts + key).at[0]; i < end; ++i) {
        const int64_t entry = load_global(call.order + i).at[0];
        const int64_t row = divide(entry, look_ups.outputs.pixels);
        const int tap = static_cast<int>(row % shape.taps());
        const Pixel output = look_ups.outputs.at((pixel.image - look_ups.outputs.first_image) *
                                                     look_ups.outputs.pixels +
                                                 entry - row * look_ups.outputs.pixels);
        const ImageTap<A> at(call.tapping, channels.image_offset_group, tap, output);
        A factor =
            read(call.tapping.mask, channels.image_offset_group * shape.taps() + tap, output, A(1));
        factor *= q / 2 == 0 ? 1 - at.fraction_y : at.fraction_y;
        factor *= q % 2 == 0 ? 1 - at.fraction_x : at.fraction_x;
        Place place{0, tap, 0};
        A y = 0, x = 0;
        if constexpr (in_scope(look)) {
          const ScopeLook<A> scope(call.tapping, channels, tap, output);
          if (!scope.inside) continue;
          place.cell = scope.cell(shape, !dense);
          place.existing = scope.existing(shape);
          y = scope.fraction_y;
          x = scope.fraction_x;
        }
        arriving.move_to(output.image, output.number);
        add_scaled(sum, factor, arriving.value(place, y, x));
      }
    }
    store_global(to, sum);
  }
}

}  // namespace mmdk::cuda
