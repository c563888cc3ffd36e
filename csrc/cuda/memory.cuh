// How kernels touch memory: vectors of neighbouring numbers, one access each. Kernels reach memory
// through these functions alone, so that an emulator sees all they do.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(MMDK_CUDA_EMULATION)
#define MMDK_OBSERVE(access, pointer, bytes) \
  ::emulation::observe(::emulation::Access::access, pointer, bytes)
#else
#define MMDK_OBSERVE(access, pointer, bytes) static_cast<void>(0)
#endif

namespace mmdk::cuda {

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

// What the hardware moves at once.
template <int bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load(const T* from) {
  union {
    typename WordOf<sizeof(T) * N>::type word;
    unsigned char bytes[sizeof(T) * N];
  } access;
  access.word = *reinterpret_cast<const decltype(access.word)*>(from);
  Vector<T, N> result;
  __builtin_memcpy(&result, access.bytes, sizeof(result));
  return result;
}

template <int N, typename T>
__device__ __forceinline__ void store(T* to, const Vector<T, N>& vector) {
  typename WordOf<sizeof(T) * N>::type word;
  __builtin_memcpy(&word, &vector, sizeof(word));
  *reinterpret_cast<decltype(word)*>(to) = word;
}

// N neighbours in global memory, aligned to their size together.
template <int N = 1, typename T>
__device__ __forceinline__ Vector<T, N> load_global(const T* from) {
  MMDK_OBSERVE(kGlobalLoad, from, sizeof(T) * N);
  return load<N>(from);
}

template <int N, typename T>
__device__ __forceinline__ void store_global(T* to, const Vector<T, N>& vector) {
  MMDK_OBSERVE(kGlobalStore, to, sizeof(T) * N);
  store(to, vector);
}

template <int N = 1, typename T>
__device__ __forceinline__ Vector<T, N> load_shared(const T* from) {
  MMDK_OBSERVE(kSharedLoad, from, sizeof(T) * N);
  return load<N>(from);
}

template <int N, typename T>
__device__ __forceinline__ void store_shared(T* to, const Vector<T, N>& vector) {
  MMDK_OBSERVE(kSharedStore, to, sizeof(T) * N);
  store(to, vector);
}

// One number.
template <typename T>
__device__ __forceinline__ void store_global(T* to, T value) {
  store_global(to, Vector<T, 1>{{value}});
}

template <typename T>
__device__ __forceinline__ void store_shared(T* to, T value) {
  store_shared(to, Vector<T, 1>{{value}});
}

// The block's shared memory, as many bytes as the launch asked for.
__device__ __forceinline__ unsigned char* shared_memory() {
#if defined(MMDK_CUDA_EMULATION)
  return ::emulation::shared_memory();
#else
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
#endif
}

}  // namespace mmdk::cuda
