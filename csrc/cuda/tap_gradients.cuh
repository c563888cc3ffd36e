// Gradients of what says where taps look (kernel_offset, image_offset, mask) and of depthwise
// weights: one pass over outputs, each block's sums in a fixed order.
#pragma once

#include "cuda/arriving.cuh"

namespace mmdk::cuda {

// Sums over channels; null where not wanted. (blocks of an offset group, N, groups, taps, 2 or 1,
// pixels)
template <typename A>
struct TapSums {
  A* kernel_offset;
  A* image_offset;
  A* mask;
  int64_t kernel_offset_groups, image_offset_groups;
};

template <typename T>
struct TapGradients {
  using A = at::opmath_type<T>;

  Tapping tapping;
  ChannelBlocks channels;
  PixelRuns runs;
  int capacity;  // taps of a plan

  PixelGrid outputs;
  const T* input;
  Source source;
  Gradients<T> gradients;
  TapSums<A> sums;
  A* weight_sums;  // (runs, rows, C) or null; depthwise only
};

// What a tap contributes to, in this order: kernel_offset y and x, image_offset y and x, mask.
constexpr int kTapSums = 5;

// A block's sums over its lanes, one for each of kTapSums, planned taps, pixels and warps.
template <typename A>
class BlockSums {
 public:
  static MMDK_HOST_DEVICE int64_t bytes(int64_t entries, int64_t lanes) {
    return (kTapSums * entries * warps(lanes) * static_cast<int64_t>(sizeof(A)) + 15) / 16 * 16;
  }

  __device__ BlockSums(unsigned char* memory, int tile, int capacity, int lanes)
      : data_(reinterpret_cast<A*>(memory)), tile_(tile), capacity_(capacity), lanes_(lanes) {}

  // Every lane of the warp takes part.
  __device__ void put(int kind, int tap, int pixel, A value) const {
    const A sum = sum_over_lanes(value, lanes_);
    const int lane = threadIdx.x;
    if (lane % (lanes_ < kWarp ? lanes_ : kWarp) == 0) {
      store_shared(place(kind, tap, pixel) + lane / kWarp, sum);
    }
  }

  __device__ A total(int kind, int tap, int pixel) const {
    A sum = 0;
    for (int warp = 0; warp < warps(lanes_); ++warp) {
      sum += load_shared(place(kind, tap, pixel) + warp).at[0];
    }
    return sum;
  }

 private:
  static MMDK_HOST_DEVICE int warps(int64_t lanes) {
    return static_cast<int>(lanes > kWarp ? lanes / kWarp : 1);
  }
  __device__ A* place(int kind, int tap, int pixel) const {
    return data_ + ((kind * capacity_ + tap) * tile_ + pixel) * warps(lanes_);
  }

  A* data_;
  int tile_, capacity_, lanes_;
};

template <typename T, int N, Look look, bool dense>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    tap_gradients(const TapGradients<T> call) {
  using A = at::opmath_type<T>;
  const Shape& shape = call.tapping.shape;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int lanes = blockDim.x, rows = blockDim.y, tile = call.runs.tile(), taps = shape.taps();
  const int channel = threadIdx.x * N;
  const bool active = channel < channels.count;
  const int weight_rows = dense ? 0 : call.gradients.rows;
  const bool wants_weight = !dense && call.weight_sums != nullptr;

  unsigned char* memory = shared_memory();
  const SharedRows<A, N> weights(memory, lanes, threadIdx.x);
  memory += SharedRows<A, N>::bytes(weight_rows, lanes);
  // Each thread adds to a copy of its own.
  const int64_t copy_bytes = SharedRows<A, N>::bytes(wants_weight ? weight_rows : 0, lanes);
  const SharedRows<A, N> weight_sums(memory + threadIdx.y * copy_bytes, lanes, threadIdx.x);
  unsigned char* const copies = memory;
  memory += rows * copy_bytes;
  Plan<A, look, true> plan(memory, tile, call.capacity);
  memory += Plan<A, look, true>::bytes(tile * call.capacity);
  const BlockSums<A> block_sums(memory, tile, call.capacity, lanes);

  if constexpr (!dense) {
    stage(weights, call.gradients.weights + run.image * call.gradients.weights_step, weight_rows,
          shape.channels, channels);
  }
  if (wants_weight) {
    for (int row = 0; row < weight_rows; ++row) weight_sums.store(row, {});
  }
  Arriving<T, N, look, dense> arriving(call.gradients, shape, weights,
                                       channels.first + (active ? channel : 0));
  const T* const input = call.input + channels.first + channel;
  A* const wanted[kTapSums] = {call.sums.kernel_offset, call.sums.kernel_offset,
                               call.sums.image_offset, call.sums.image_offset, call.sums.mask};

  for (int64_t begin = run.begin; begin < run.end; begin += tile) {
    const int count = static_cast<int>(run.end - begin < tile ? run.end - begin : tile);
    for (int first_tap = 0; first_tap < taps; first_tap += call.capacity) {
      const int planned = taps - first_tap < call.capacity ? taps - first_tap : call.capacity;
      __syncthreads();
      plan.template build<false>(call.tapping, channels, call.outputs, call.source,
                                 /*bordered=*/!dense, begin, count, first_tap, planned);
      __syncthreads();
      for (int pixel = threadIdx.y; pixel < tile; pixel += rows) {
        if (active && pixel < count) {
          const Pixel at = call.outputs.at(begin + pixel);
          arriving.move_to(at.image, at.number);
        }
        for (int tap = 0; tap < planned; ++tap) {
          A sums[kTapSums] = {};
          const Place place = plan.place(tap, pixel);
          if (active && place.source >= 0) {
            const auto at = plan.weights(tap, pixel);  // fractions and mask
            const A y = at.at[0], x = at.at[1], factor = at.at[2];
            const Between<A, N> between = arriving.between(place, y, x);
            Vector<A, N> value{};
            if constexpr (in_image(look)) {
              const auto sources = plan.sources(tap, pixel);
              const auto values = plan.image_values(tap, pixel);
              const auto slopes = plan.image_slopes(tap, pixel);
#pragma unroll
              for (int q = 0; q < 4; ++q) {
                const auto cell = load_channels<N>(input + sources.at[q]);
                add_scaled(value, values.at[q / 2] * values.at[2 + q % 2], cell);
                const A arrives = factor * dot(between.value, cell);
                sums[2] += arrives * slopes.at[q / 2] * values.at[2 + q % 2];
                sums[3] += arrives * values.at[q / 2] * slopes.at[2 + q % 2];
              }
            } else {
              value = load_channels<N>(input + place.source);
            }
            sums[0] = factor * dot(between.slope_y, value);
            sums[1] = factor * dot(between.slope_x, value);
            sums[4] = dot(between.value, value);
            if constexpr (!dense) {
              if (wants_weight) {
                Vector<A, N> product{};
                add_products(product, arriving.of_output(), value);
                if constexpr (in_scope(look)) {
                  const auto cells = bilinear_weights(y, x);
#pragma unroll
                  for (int q = 0; q < 4; ++q) {
                    const int row = place.cell + (q < 2 ? 0 : shape.bordered_width()) + q % 2;
                    weight_sums.add(row, factor * cells.at[q], product);
                  }
                } else {
                  weight_sums.add(place.cell, factor, product);
                }
              }
            }
          }
#pragma unroll
          for (int kind = 0; kind < kTapSums; ++kind) {
            if (wanted[kind] != nullptr) block_sums.put(kind, tap, pixel, sums[kind]);
          }
        }
      }
      __syncthreads();
      const int thread = threadIdx.y * lanes + threadIdx.x;
      for (int entry = thread; entry < planned * tile; entry += lanes * rows) {
        const int pixel = entry % tile, tap = entry / tile;
        if (pixel >= count) continue;
        const Pixel at = call.outputs.at(begin + pixel);
        const int number = first_tap + tap;
#pragma unroll
        for (int kind = 0; kind < kTapSums; ++kind) {
          if (wanted[kind] == nullptr) continue;
          const bool in_kernel = kind < 2;
          const int parts = kind < 4 ? 2 : 1;
          const int64_t part =
              block.channel_block % (in_kernel ? call.channels.per_kernel_offset_group()
                                               : call.channels.per_image_offset_group());
          const int64_t groups =
              in_kernel ? call.sums.kernel_offset_groups : call.sums.image_offset_groups;
          const int64_t group =
              in_kernel ? channels.kernel_offset_group : channels.image_offset_group;
          const int64_t row = ((part * shape.batch + at.image) * groups + group) * taps + number;
          store_global(wanted[kind] + (row * parts + kind % 2 * (parts - 1)) * shape.out_pixels() +
                           at.number,
                       block_sums.total(kind, tap, pixel));
        }
      }
    }
  }

  if (!wants_weight) return;
  __syncthreads();
  if (!active) return;
  A* const to =
      call.weight_sums + block.run_index * weight_rows * shape.channels + channels.first + channel;
  for (int row = threadIdx.y; row < weight_rows; row += rows) {
    Vector<A, N> sum{};
    for (int copy = 0; copy < rows; ++copy) {
      const SharedRows<A, N> of(copies + copy * copy_bytes, lanes, threadIdx.x);
      add_scaled(sum, A(1), of.load(row));
    }
    store_global(to + row * shape.channels, sum);
  }
}

}  // namespace mmdk::cuda
