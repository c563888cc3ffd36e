// The channels of one lane: N neighbours of an activation, in the precision sums are made in.
#pragma once

#include <ATen/OpMathType.h>

#include "cuda/memory.cuh"
#include "cuda/partition.h"

namespace mmdk::cuda {

// Channels that make an access of 16 bytes. Only tests need double precision to be fast.
template <typename T>
constexpr int kWide = sizeof(T) == 8 ? 1 : 16 / sizeof(T);
// Those that make one of 4 bytes: a warp of them fills whole lines, with a quarter of the registers
// and of the shared memory.
template <typename T>
constexpr int kNarrow = sizeof(T) >= 4 ? 1 : 4 / sizeof(T);

template <int N, typename T>
__device__ __forceinline__ Vector<at::opmath_type<T>, N> load_channels(const T* from) {
  const Vector<T, N> loaded = load_global<N>(from);
  Vector<at::opmath_type<T>, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = static_cast<at::opmath_type<T>>(loaded.at[i]);
  return result;
}

template <int N, typename T>
__device__ __forceinline__ void store_channels(T* to,
                                               const Vector<at::opmath_type<T>, N>& channels) {
  Vector<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = static_cast<T>(channels.at[i]);
  store_global(to, result);
}

// sum += factor * values
template <typename A, int N>
__device__ __forceinline__ void add_scaled(Vector<A, N>& sum, A factor,
                                           const Vector<A, N>& values) {
#pragma unroll
  for (int i = 0; i < N; ++i) sum.at[i] += factor * values.at[i];
}

// sum += factors * values, channel by channel
template <typename A, int N>
__device__ __forceinline__ void add_products(Vector<A, N>& sum, const Vector<A, N>& factors,
                                             const Vector<A, N>& values) {
#pragma unroll
  for (int i = 0; i < N; ++i) sum.at[i] += factors.at[i] * values.at[i];
}

template <typename A, int N>
__device__ __forceinline__ A dot(const Vector<A, N>& left, const Vector<A, N>& right) {
  A sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum += left.at[i] * right.at[i];
  return sum;
}

// Over `lanes` neighbours, a power of two; every lane of the warp takes part and gets the sum.
template <typename A>
__device__ __forceinline__ A sum_over_lanes(A value, int lanes) {
  for (int distance = (lanes < kWarp ? lanes : kWarp) / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// Rows of channels in shared memory, one for each cell, laid out so that the accesses of a warp's
// lanes fall on different banks: vectors longer than 16 bytes are kept in parts.
template <typename A, int N>
class SharedRows {
 public:
  // A multiple of 16, so that what follows is aligned.
  static MMDK_HOST_DEVICE int64_t bytes(int64_t rows, int64_t lanes) {
    return (rows * lanes * static_cast<int64_t>(N * sizeof(A)) + 15) / 16 * 16;
  }

  // `memory` holds rows of `lanes` vectors; those of `lane`.
  __device__ SharedRows(unsigned char* memory, int lanes, int lane)
      : data_(reinterpret_cast<A*>(memory) + lane * kPart), step_(lanes * kPart) {}

  __device__ __forceinline__ Vector<A, N> load(int row) const {
    Vector<A, N> result;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const auto loaded = load_shared<kPart>(data_ + (row * kParts + part) * step_);
#pragma unroll
      for (int i = 0; i < kPart; ++i) result.at[part * kPart + i] = loaded.at[i];
    }
    return result;
  }

  __device__ __forceinline__ void store(int row, const Vector<A, N>& vector) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Vector<A, kPart> stored;
#pragma unroll
      for (int i = 0; i < kPart; ++i) stored.at[i] = vector.at[part * kPart + i];
      store_shared(data_ + (row * kParts + part) * step_, stored);
    }
  }

  // Row += factor * vector, by the only thread that uses it.
  __device__ __forceinline__ void add(int row, A factor, const Vector<A, N>& vector) const {
    Vector<A, N> sum = load(row);
    add_scaled(sum, factor, vector);
    store(row, sum);
  }

 private:
  static constexpr int kMost = 16 / sizeof(A);
  static constexpr int kPart = N < kMost ? N : kMost;
  static constexpr int kParts = N / kPart;

  A* data_;
  int step_;
};

// Weights (rows, channels) of a block's channels into shared memory, by all its threads.
template <typename A, int N>
__device__ __forceinline__ void stage(const SharedRows<A, N>& to, const A* weights, int rows,
                                      int64_t all_channels, const Channels& channels) {
  const int channel = threadIdx.x * N;
  if (channel >= channels.count) return;
  for (int row = threadIdx.y; row < rows; row += blockDim.y) {
    to.store(row, load_global<N>(weights + row * all_channels + channels.first + channel));
  }
}

}  // namespace mmdk::cuda
