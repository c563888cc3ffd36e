// The part of CUDA that the kernels use, for a host compiler.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>

#include "emulation.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

using dim3 = emulation::Extent;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline const emulation::Index& threadIdx = emulation::thread_index;
inline const emulation::Index& blockIdx = emulation::block_index;
inline const emulation::Extent& blockDim = emulation::block_extent;
inline const emulation::Extent& gridDim = emulation::grid_extent;

// The line tells one barrier from another, whatever a compiler makes of the code around it.
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::synchronize_block(file, line);
}
inline void __syncwarp(unsigned lanes = 0xffffffffu) { emulation::synchronize_warp(lanes); }

template <typename T>
T __shfl_sync(unsigned lanes, T value, int from, int width = 32) {
  const int first = emulation::lane() & -width;
  return emulation::shuffle(lanes, value, first + (from & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned lanes, T value, int mask, int width = 32) {
  const int from = emulation::lane() ^ mask, end = (emulation::lane() & -width) + width;
  return emulation::shuffle(lanes, value, from < end ? from : emulation::lane());
}
template <typename T>
T __shfl_down_sync(unsigned lanes, T value, unsigned by, int width = 32) {
  const int from = emulation::lane() + static_cast<int>(by);
  const int end = (emulation::lane() & -width) + width;
  return emulation::shuffle(lanes, value, from < end ? from : emulation::lane());
}

inline unsigned __ballot_sync(unsigned lanes, int value) {
  return emulation::vote(lanes, value != 0);
}
inline int __any_sync(unsigned lanes, int value) { return emulation::vote(lanes, value != 0) != 0; }

template <typename T>
T atomicAdd(T* to, T value) {
  return std::atomic_ref<T>(*to).fetch_add(value, std::memory_order_relaxed);
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrL2CacheSize,
};

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = emulation::device.processors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emulation::device.shared_bytes;
      break;
    case cudaDevAttrL2CacheSize:
      *value = emulation::device.cache_bytes;
      break;
  }
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  emulation::allow_shared_bytes(kernel, value);
  return cudaSuccess;
}

struct cudaFuncAttributes {
  int ptxVersion;
};

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = emulation::device.capability;
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  emulation::launch(reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim,
                    config->dynamicSmemBytes, [&] { kernel(Parameters(arguments)...); });
  return cudaSuccess;
}
