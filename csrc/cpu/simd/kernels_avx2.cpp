#if defined(__x86_64__)
// Before the target changes: the standard library's inline functions are shared with other files
// and must run everywhere.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#pragma GCC target("avx2,fma,f16c")
#define MMDK_SIMD_NAME avx2
#define MMDK_VECTOR_BYTES 32
#include "cpu/simd/kernels_impl.h"
#endif
