// The sums of depthwise_sums.cuh for half types and scopes of at most 16 cells. What all pixels'
// taps sample from the scope is a matrix product, (pixels, cells) times (cells, channels), with as
// many cells as one instruction of the tensor cores takes.
//
// The bilinear weights are split into two numbers of the half type each, so that little of them is
// lost: about 2^-17 of a weight in bfloat16, 2^-22 in float16.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/mma.cuh"
#include "cuda/taps.cuh"

namespace mmdk::cuda {

constexpr int kMmaPixels = 16, kMmaCells = 16;
// Channels of a warp: 8 of each lane, which make an access of 16 bytes.
constexpr int kMmaChannels = 32;

template <typename T>
struct DepthwiseMma {
  Tapping tapping;
  ChannelBlocks channels;  // lanes of `kMmaChannels` channels stand for warps
  PixelRuns runs;
  int capacity;  // taps of a plan

  const T* data;
  Source source;
  const T* weights;   // (C, cells)
  const float* bias;  // (C,) or null
  T* sums;
  Source target;
};

// For kMmaPixels pixels: where each tap looks, and its bilinear weights as fragments of A, in two
// parts.
template <typename T>
class MmaPlan {
 public:
  static MMDK_HOST_DEVICE int64_t bytes(int64_t entries) {
    return entries * static_cast<int64_t>(sizeof(int64_t) + 2 * kMmaCells * sizeof(T));
  }

  // Of `groups` groups of pixels and up to `capacity` taps.
  __device__ MmaPlan(unsigned char* memory, int groups, int capacity)
      : groups_(groups), fragments_(reinterpret_cast<Vector<uint32_t, 4>*>(memory)) {
    const int entries = groups * capacity;
    low_ = fragments_ + entries * kWarp;
    sources_ = reinterpret_cast<int64_t*>(low_ + entries * kWarp);
  }

  template <bool transposed>
  __device__ void build(const Tapping& tapping, const Channels& channels, const PixelGrid& pixels,
                        const Source& source, int64_t first_pixel, int count, int first_tap,
                        int taps) const {
    const int tile = groups_ * kMmaPixels;
    for (int entry = threadIdx.x; entry < taps * tile; entry += kThreads) {
      const int index = entry % tile, tap = entry / tile;
      FixedTap at;
      float y = 0, x = 0;
      int cell_y = -2, cell_x = -2;  // next to no cell
      if (index < count) {
        at = FixedTap::of<transposed>(tapping.shape, source, pixels.at(first_pixel + index),
                                      first_tap + tap);
      }
      if (at.source >= 0) {
        const ScopeLook<float> look(tapping, channels, first_tap + tap, at.output);
        if (look.inside) {
          y = look.fraction_y;
          x = look.fraction_x;
          cell_y = look.y;
          cell_x = look.x;
        } else {
          at.source = -1;
        }
      }
      store_shared(sources_ + tap * tile + index, at.source);
      const int group = tap * groups_ + index / kMmaPixels, row = index % kMmaPixels;
#pragma unroll
      for (int pair = 0; pair < kMmaCells / 2; ++pair) {
        T high[2], low[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int cell = pair * 2 + i;
          const int down = cell / tapping.shape.scope[1] - cell_y;
          const int right = cell % tapping.shape.scope[1] - cell_x;
          const float weight_y = down == 0 ? 1 - y : down == 1 ? y : 0;
          const float weight_x = right == 0 ? 1 - x : right == 1 ? x : 0;
          const float weight = weight_y * weight_x;
          high[i] = static_cast<T>(weight);
          low[i] = static_cast<T>(weight - static_cast<float>(high[i]));
        }
        const int lane = row % 8 * 4 + pair % 4, word = row / 8 + pair / 4 * 2;
        store_shared(fragments_[group * kWarp + lane].at + word, pack(high[0], high[1]));
        store_shared(low_[group * kWarp + lane].at + word, pack(low[0], low[1]));
      }
    }
  }

  __device__ int64_t source(int tap, int group, int row) const {
    return load_shared(sources_ + (tap * groups_ + group) * kMmaPixels + row).at[0];
  }
  __device__ Vector<uint32_t, 4> high(int tap, int group, int lane) const {
    return load_shared<4>(fragments_[(tap * groups_ + group) * kWarp + lane].at);
  }
  __device__ Vector<uint32_t, 4> low(int tap, int group, int lane) const {
    return load_shared<4>(low_[(tap * groups_ + group) * kWarp + lane].at);
  }

 private:
  int groups_;
  Vector<uint32_t, 4>* fragments_;
  Vector<uint32_t, 4>* low_;
  int64_t* sources_;
};

template <typename T, bool transposed>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    depthwise_mma(const DepthwiseMma<T> call) {
  constexpr int kTiles = 4;  // of 8 channels each
  const Shape& shape = call.tapping.shape;
  const Block block = Block::at(blockIdx.x, call.runs, call.channels);
  const Run& run = block.run;
  const Channels& channels = block.channels;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int parts = call.channels.threads().lanes, groups = call.channels.threads().rows;
  const int group = warp / parts, row = lane / 4, taps = shape.taps(), cells = shape.cells();
  const int tile = groups * kMmaPixels;
  // Of the warp, and of those the eight that this lane sums up. Column n of product j is channel
  // n / 2 * 8 + j * 2 + n % 2, so that a lane's columns of all products are neighbours.
  const int64_t first_channel = channels.first + warp % parts * kMmaChannels;
  const bool active = warp % parts * kMmaChannels < channels.count;
  const int64_t own_channel = first_channel + lane % 4 * 8;

  MmaPlan<T> plan(shared_memory(), groups, call.capacity);
  uint32_t weights[kTiles][2];
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int64_t channel = first_channel + row / 2 * 8 + j * 2 + row % 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      T pair[2] = {T(0), T(0)};
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int cell = lane % 4 * 2 + i * 8 + k;
        if (active && cell < cells)
          pair[k] = load_global(call.weights + channel * cells + cell).at[0];
      }
      weights[j][i] = pack(pair[0], pair[1]);
    }
  }
  Vector<float, 8> bias{};
  if (call.bias != nullptr && active) bias = load_global<8>(call.bias + own_channel);

  for (int64_t begin = run.begin; begin < run.end; begin += tile) {
    const int count = static_cast<int>(run.end - begin < tile ? run.end - begin : tile);
    Vector<float, 8> sum[2] = {bias, bias};
    for (int first_tap = 0; first_tap < taps; first_tap += call.capacity) {
      const int planned = taps - first_tap < call.capacity ? taps - first_tap : call.capacity;
      __syncthreads();
      plan.template build<transposed>(call.tapping, channels, call.target.grid, call.source, begin,
                                      count, first_tap, planned);
      __syncthreads();
      if (!active) continue;
      for (int tap = 0; tap < planned; ++tap) {
        const auto high = plan.high(tap, group, lane), low = plan.low(tap, group, lane);
        Vector<float, 8> value[2] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t source = plan.source(tap, group, row + half * 8);
          if (source >= 0) value[half] = load_channels<8>(call.data + own_channel + source);
        }
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          float sampled[4] = {};
          multiply_add<T>(sampled, high.at, weights[j]);
          multiply_add<T>(sampled, low.at, weights[j]);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            sum[0].at[j * 2 + i] += sampled[i] * value[0].at[j * 2 + i];
            sum[1].at[j * 2 + i] += sampled[2 + i] * value[1].at[j * 2 + i];
          }
        }
      }
    }
    if (!active) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pixel = group * kMmaPixels + row + half * 8;
      if (pixel >= count) continue;
      const Pixel at = call.target.grid.at(begin + pixel);
      store_channels<8>(call.sums + own_channel + call.target.at(at.image, at.number), sum[half]);
    }
  }
}

}  // namespace mmdk::cuda
