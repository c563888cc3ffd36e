#include "cpu/simd/kernels.h"

#include <cstdlib>
#include <cstring>

namespace mmdk::cpu::simd {

namespace portable {
template <typename T>
const Kernels<T>& kernels();
}
namespace avx2 {
template <typename T>
const Kernels<T>& kernels();
}
namespace avx512 {
template <typename T>
const Kernels<T>& kernels();
}

namespace {

#if defined(__x86_64__)
// PyTorch's own variable, with its meaning: no more than this.
bool is_allowed(const char* capability) {
  const char* most = std::getenv("ATEN_CPU_CAPABILITY");
  if (most == nullptr || std::strcmp(most, "avx512") == 0) return true;
  return std::strcmp(most, capability) == 0;
}

bool has_avx512() {
  return is_allowed("avx512") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq");
}

bool has_avx2() {
  return is_allowed("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
#endif

template <typename T>
const Kernels<T>& choose() {
#if defined(__x86_64__)
  if (has_avx512()) return avx512::kernels<T>();
  if (has_avx2()) return avx2::kernels<T>();
#endif
  return portable::kernels<T>();
}

}  // namespace

template <typename T>
const Kernels<T>& kernels() {
  static const Kernels<T>& chosen = choose<T>();
  return chosen;
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace mmdk::cpu::simd
