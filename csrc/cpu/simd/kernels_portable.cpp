// For any machine: vectors of 16 bytes, which SSE2 and NEON have.
#define MMDK_SIMD_NAME portable
#define MMDK_VECTOR_BYTES 16
#include "cpu/simd/kernels_impl.h"
