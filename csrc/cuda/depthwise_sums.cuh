// Depthwise sums over taps, channels innermost: outputs, and the gradient of an input whose taps
// look at fixed pixels, which is the same sum over the outputs that look at it.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/plan.cuh"

namespace mmdk::cuda {

template <typename T>
struct DepthwiseSums {
  using A = at::opmath_type<T>;

  Tapping tapping;
  ChannelBlocks channels;
  PixelRuns runs;
  int capacity;  // taps of a plan

  const T* data;
  Source source;
  const A* weights;  // (images or 1, rows, C): scopes with a border, or kernels
  int rows;
  int64_t weights_step;  // from one image's to the next, or 0
  const A* bias;         // (C,) or null
  T* sums;
  Source target;
};

// Pixels a thread sums up at a time.
constexpr int kPixels = 4;

template <typename T, int N, Look look, bool transposed>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    depthwise_sums(const DepthwiseSums<T> call) {
  using A = at::opmath_type<T>;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int lanes = blockDim.x, tile = call.runs.tile(), taps = call.tapping.shape.taps();
  const int channel = threadIdx.x * N;
  const bool active = channel < channels.count;

  unsigned char* const memory = shared_memory();
  const SharedRows<A, N> weights(memory, lanes, threadIdx.x);
  Plan<A, look, false> plan(memory + SharedRows<A, N>::bytes(call.rows, lanes), tile,
                            call.capacity);
  stage(weights, call.weights + run.image * call.weights_step, call.rows,
        call.tapping.shape.channels, channels);
  Vector<A, N> bias{};
  if (call.bias != nullptr && active) bias = load_global<N>(call.bias + channels.first + channel);
  const T* const data = call.data + channels.first + channel;
  T* const sums = call.sums + channels.first + channel;

  for (int64_t begin = run.begin; begin < run.end; begin += tile) {
    const int count = static_cast<int>(run.end - begin < tile ? run.end - begin : tile);
    Vector<A, N> sum[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) sum[i] = bias;
    for (int first_tap = 0; first_tap < taps; first_tap += call.capacity) {
      const int planned = taps - first_tap < call.capacity ? taps - first_tap : call.capacity;
      __syncthreads();
      plan.template build<transposed>(call.tapping, channels, call.target.grid, call.source,
                                      /*bordered=*/true, begin, count, first_tap, planned);
      __syncthreads();
      if (!active) continue;
      for (int tap = 0; tap < planned; ++tap) {
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
          const int pixel = threadIdx.y + i * blockDim.y;
          if (pixel >= count) continue;
          const Place place = plan.place(tap, pixel);
          if (place.source < 0) continue;
          Vector<A, N> value{};
          if constexpr (in_image(look)) {
            const auto sources = plan.sources(tap, pixel);
            const auto values = plan.image_values(tap, pixel);
#pragma unroll
            for (int q = 0; q < 4; ++q) {
              add_scaled(value, values.at[q], load_channels<N>(data + sources.at[q]));
            }
          } else {
            value = load_channels<N>(data + place.source);
          }
          Vector<A, N> weight{};
          if constexpr (in_scope(look)) {
            const auto cells = plan.weights(tap, pixel);
#pragma unroll
            for (int q = 0; q < 4; ++q) {
              const int row = place.cell + (q < 2 ? 0 : call.tapping.shape.bordered_width());
              add_scaled(weight, cells.at[q], weights.load(row + q % 2));
            }
          } else {
            weight = weights.load(place.cell);
          }
          add_products(sum[i], weight, value);
        }
      }
    }
    if (!active) continue;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int pixel = threadIdx.y + i * blockDim.y;
      if (pixel >= count) continue;
      const Pixel at = call.target.grid.at(begin + pixel);
      store_channels<N>(sums + call.target.at(at.image, at.number), sum[i]);
    }
  }
}

}  // namespace mmdk::cuda
