// How kernels touch memory: vectors of neighbouring numbers, one access each. Kernels reach memory
// through these functions alone, so that an emulator sees all they do.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(MMDK_CUDA_EMULATION)
// More than 16 bytes take several accesses.
#define MMDK_OBSERVE(access, pointer, bytes)                                             \
  for (size_t first = 0; first < (bytes); first += 16) {                                 \
    ::emulation::observe(::emulation::Access::access,                                    \
                         reinterpret_cast<const char*>(pointer) + first,                 \
                         static_cast<int>((bytes) - first < 16 ? (bytes) - first : 16)); \
  }
#else
#define MMDK_OBSERVE(access, pointer, bytes) static_cast<void>(0)
#endif

namespace mmdk::cuda {

template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vector {
  T at[N];
};

// What the hardware moves at once; longer vectors take several of the longest.
template <int bytes>
struct WordOf {
  using type = uint4;
};
template <>
struct WordOf<1> {
  using type = uint8_t;
};
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

template <int bytes>
struct Words {
  using Word = typename WordOf<bytes>::type;
  static_assert(bytes % sizeof(Word) == 0);
  Word at[bytes / sizeof(Word)];
};

template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load(const T* from) {
  const auto words = *reinterpret_cast<const Words<sizeof(T) * N>*>(from);
  Vector<T, N> result;
  __builtin_memcpy(&result, &words, sizeof(result));
  return result;
}

template <int N, typename T>
__device__ __forceinline__ void store(T* to, const Vector<T, N>& vector) {
  Words<sizeof(T) * N> words;
  __builtin_memcpy(&words, &vector, sizeof(words));
  *reinterpret_cast<Words<sizeof(T) * N>*>(to) = words;
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

// Adds to neighbours in global memory, in whatever order other threads do. One access where the
// hardware has one for four numbers.
template <typename A, int N>
__device__ __forceinline__ void add_global(A* to, const Vector<A, N>& vector) {
  MMDK_OBSERVE(kGlobalAtomic, to, sizeof(A) * N);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && CUDART_VERSION >= 12010
  if constexpr (sizeof(A) * N == 16 && N == 4) {
    atomicAdd(reinterpret_cast<float4*>(to),
              make_float4(vector.at[0], vector.at[1], vector.at[2], vector.at[3]));
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < N; ++i) atomicAdd(to + i, vector.at[i]);
  }
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
