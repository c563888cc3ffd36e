// The sums of depthwise_sums.cuh over contiguous tensors: neighbouring threads work on neighbouring
// pixels, so that they read and write lines of a channel's plane, and each looks the scope up for
// itself. A pixel's look-ups serve all channels of the block.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/plan.cuh"

namespace mmdk::cuda {

template <typename T>
struct PlaneSums {
  using A = at::opmath_type<T>;

  Tapping tapping;
  ChannelBlocks channels;
  PixelRuns runs;
  int capacity;  // taps of a plan

  const T* data;
  Source source;
  int64_t source_channel;
  const A* weights;      // (images or 1, C, rows): scopes with a border
  int64_t weights_step;  // from one image's to the next, or 0
  const A* bias;         // (C,) or null
  T* sums;
  Source target;
  int64_t target_channel;
};

// Channels a thread sums up at a time.
constexpr int kPlanes = 8;

template <typename T, bool transposed>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    plane_sums(const PlaneSums<T> call) {
  using A = at::opmath_type<T>;
  const Shape& shape = call.tapping.shape;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int thread = threadIdx.x, taps = shape.taps();
  const int rows = shape.bordered_cells(), width = shape.bordered_width();

  A* const weights = reinterpret_cast<A*>(shared_memory());
  Plan<A, Look::kScope, false> plan(shared_memory() + SharedRows<A, 1>::bytes(rows, channels.count),
                                    kThreads, call.capacity);
  const A* const from = call.weights + run.image * call.weights_step + channels.first * rows;
  for (int i = thread; i < channels.count * rows; i += kThreads) {
    store_shared(weights + i, load_global(from + i));
  }

  for (int64_t begin = run.begin; begin < run.end; begin += kThreads) {
    const int count = static_cast<int>(run.end - begin < kThreads ? run.end - begin : kThreads);
    for (int first = 0; first < channels.count; first += kPlanes) {
      const int planes = channels.count - first < kPlanes ? channels.count - first : kPlanes;
      A sum[kPlanes];
#pragma unroll
      for (int i = 0; i < kPlanes; ++i) {
        sum[i] = call.bias != nullptr && i < planes
                     ? load_global(call.bias + channels.first + first + i).at[0]
                     : A(0);
      }
      for (int first_tap = 0; first_tap < taps; first_tap += call.capacity) {
        const int planned = taps - first_tap < call.capacity ? taps - first_tap : call.capacity;
        if (first == 0 || planned < taps) {
          __syncthreads();
          plan.template build<transposed>(call.tapping, channels, call.target.grid, call.source,
                                          /*bordered=*/true, begin, count, first_tap, planned);
          __syncthreads();
        }
        for (int tap = 0; tap < planned; ++tap) {
          const Place place = plan.place(tap, thread);
          if (place.source < 0) continue;
          const auto cells = plan.weights(tap, thread);
          const T* data = call.data + (channels.first + first) * call.source_channel + place.source;
          const A* row = weights + first * rows + place.cell;
#pragma unroll
          for (int i = 0; i < kPlanes; ++i) {
            if (i >= planes) continue;
            A weight = 0;
#pragma unroll
            for (int q = 0; q < 4; ++q) {
              weight += cells.at[q] * load_shared(row + (q < 2 ? 0 : width) + q % 2).at[0];
            }
            sum[i] += weight * load_channels<1>(data).at[0];
            data += call.source_channel;
            row += rows;
          }
        }
      }
      if (thread >= count) continue;
      const Pixel at = call.target.grid.at(begin + thread);
      T* to = call.sums + (channels.first + first) * call.target_channel +
              call.target.at(at.image, at.number);
#pragma unroll
      for (int i = 0; i < kPlanes; ++i) {
        if (i >= planes) continue;
        store_channels<1>(to, Vector<A, 1>{{sum[i]}});
        to += call.target_channel;
      }
    }
  }
}

}  // namespace mmdk::cuda
