// Launching kernels: on the current stream of the current device, and what that device can do.
#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

namespace mmdk::cuda {

struct Device {
  int processors;        // streaming multiprocessors
  int64_t shared_bytes;  // most shared memory a block may ask for
  int64_t cache_bytes;   // of L2

  static Device current() {
    const auto attribute = [device = c10::cuda::current_device()](cudaDeviceAttr name) {
      int value = 0;
      C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
      return value;
    };
    return {attribute(cudaDevAttrMultiProcessorCount),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), attribute(cudaDevAttrL2CacheSize)};
  }
};

// Most blocks of a launch: they are numbered in one dimension.
constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max();

// A block that needs more than this has to ask the driver first.
constexpr int64_t kSharedBytesOfAnyDevice = 48 * 1024;

// Arguments are those of the kernel, exactly. Nothing is launched for no blocks.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, int64_t shared_bytes,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  TORCH_INTERNAL_ASSERT(blocks <= kMostBlocks);
  if (shared_bytes > kSharedBytesOfAnyDevice) {
    C10_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = threads;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

}  // namespace mmdk::cuda
