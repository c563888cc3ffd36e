// The data that outputs see, resampled for matrix products: at each cell of the scope what all taps
// bring to it, or at each tap. (pixels, cells or taps, channels of a group), group after group.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/plan.cuh"

namespace mmdk::cuda {

template <typename T>
struct Columns {
  using A = at::opmath_type<T>;

  Tapping tapping;
  ChannelBlocks channels;
  PixelRuns runs;
  int capacity;  // taps of a plan

  PixelGrid outputs;
  const T* input;
  Source source;
  T* columns;
  Source target;
  int64_t group_channels, group;  // channels of a group; step from one group to the next
};

template <typename T, int N, Look look>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) columns(const Columns<T> call) {
  using A = at::opmath_type<T>;
  const Shape& shape = call.tapping.shape;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int lanes = blockDim.x, rows = blockDim.y, tile = call.runs.tile(), taps = shape.taps();
  const int width = shape.bordered_width(), cells = in_scope(look) ? shape.bordered_cells() : 0;
  const int channel = threadIdx.x * N;
  const bool active = channel < channels.count;

  unsigned char* const memory = shared_memory();
  // Each thread adds to cells of its own.
  const int64_t sums_bytes = SharedRows<A, N>::bytes(cells, lanes);
  const SharedRows<A, N> sums(memory + threadIdx.y * sums_bytes, lanes, threadIdx.x);
  Plan<A, look, false> plan(memory + rows * sums_bytes, tile, call.capacity);

  const T* const input = call.input + channels.first + channel;
  const int64_t at_channel = channels.first + (active ? channel : 0);
  const int64_t group = divide(at_channel, call.group_channels);
  T* const columns = call.columns + group * call.group + at_channel - group * call.group_channels;

  for (int64_t begin = run.begin; begin < run.end; begin += tile) {
    const int count = static_cast<int>(run.end - begin < tile ? run.end - begin : tile);
    for (int first_tap = 0; first_tap < taps; first_tap += call.capacity) {
      const int planned = taps - first_tap < call.capacity ? taps - first_tap : call.capacity;
      __syncthreads();
      plan.template build<false>(call.tapping, channels, call.outputs, call.source,
                                 /*bordered=*/true, begin, count, first_tap, planned);
      __syncthreads();
      if (!active) continue;
      // Where a plan does not hold all taps, a thread has one pixel of the tile, and its sums stay.
      for (int pixel = threadIdx.y; pixel < count; pixel += rows) {
        const Pixel at = call.outputs.at(begin + pixel);
        T* const to = columns + call.target.at(at.image, at.number);
        if (in_scope(look) && first_tap == 0) {
          for (int cell = 0; cell < cells; ++cell) sums.store(cell, {});
        }
        for (int tap = 0; tap < planned; ++tap) {
          const Place place = plan.place(tap, pixel);
          Vector<A, N> value{};
          if (place.source >= 0) {
            if constexpr (in_image(look)) {
              const auto sources = plan.sources(tap, pixel);
              const auto values = plan.image_values(tap, pixel);
#pragma unroll
              for (int q = 0; q < 4; ++q) {
                add_scaled(value, values.at[q], load_channels<N>(input + sources.at[q]));
              }
            } else {
              value = load_channels<N>(input + place.source);
            }
          }
          if constexpr (!in_scope(look)) {
            store_channels<N>(to + (first_tap + tap) * call.group_channels, value);
          } else if (place.source >= 0) {
            const auto weights = plan.weights(tap, pixel);
#pragma unroll
            for (int q = 0; q < 4; ++q) {
              sums.add(place.cell + (q < 2 ? 0 : width) + q % 2, weights.at[q], value);
            }
          }
        }
        if (in_scope(look) && first_tap + planned == taps) {
          for (int y = 0; y < shape.scope[0]; ++y) {
            for (int x = 0; x < shape.scope[1]; ++x) {
              store_channels<N>(to + (y * shape.scope[1] + x) * call.group_channels,
                                sums.load((y + 1) * width + x + 1));
            }
          }
        }
      }
    }
  }
}

}  // namespace mmdk::cuda
