// Products of small matrices by a warp on tensor cores.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>

namespace mmdk::cuda {

// From this compute capability on.
constexpr int kMmaCapability = 80;

// D (16 x 8) += A (16 x 16) B (16 x 8), in float32; T is c10::Half or c10::BFloat16. Of lane l,
// with g = l / 4 and t = l % 4: of A the rows g and g + 8 of columns 2t and 2t + 1, then of columns
// 2t + 8 and 2t + 9; of B column g of rows 2t and 2t + 1, then of rows 2t + 8 and 2t + 9; of D
// columns 2t and 2t + 1 of row g, then of row g + 8. (PTX ISA, mma.m16n8k16)
template <typename T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
#if defined(MMDK_CUDA_EMULATION)
  ::emulation::mma_m16n8k16<T>(d, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, c10::Half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  // Nothing launches this where there is no such instruction.
  __trap();
#endif
}

// Two numbers in a register, the first in its low half.
template <typename T>
__device__ __forceinline__ uint32_t pack(T low, T high) {
  const T both[2] = {low, high};
  uint32_t word;
  __builtin_memcpy(&word, both, sizeof(word));
  return word;
}

}  // namespace mmdk::cuda
