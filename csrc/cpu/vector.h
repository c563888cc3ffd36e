// The two loops over contiguous channels that all CPU kernels are made of.
#pragma once

#include <cstdint>

namespace mmdk::cpu {

template <typename T>
inline void add_scaled(T* __restrict__ to, const T* __restrict__ from, T factor, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) to[i] += factor * from[i];
}

template <typename T>
inline T dot(const T* a, const T* b, int64_t size) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace mmdk::cpu
