// What Python sees of the emulator, and of the operators that run on it.
#include <ATen/core/Dict.h>
#include <torch/library.h>

#include "cuda/deform_kernel2d.h"
#include "cuda/sample_kernel.h"
#include "engine/engine.h"

namespace {

void set_schedule(int64_t seed) { emulation::settings.seed = static_cast<uint64_t>(seed); }

void watch_for_races(bool on) { emulation::settings.watching = on; }

void set_device(int64_t processors, int64_t shared_bytes, int64_t capability, int64_t cache_bytes) {
  emulation::device = {static_cast<int>(processors), static_cast<int>(shared_bytes),
                       static_cast<int>(capability), static_cast<int>(cache_bytes)};
}

void set_counting(bool on, int64_t l2_bytes) {
  emulation::settings.counting = on;
  emulation::settings.l2_bytes = static_cast<uint64_t>(l2_bytes);
  if (on) emulation::reset_counters();
}

c10::Dict<std::string, c10::Dict<std::string, int64_t>> counters() {
  c10::Dict<std::string, c10::Dict<std::string, int64_t>> result;
  for (const auto& [kernel, of] : emulation::all_counters()) {
    c10::Dict<std::string, int64_t> named;
#define MMDK_COUNTER(name) named.insert(#name, of.name)
    MMDK_COUNTER(launches);
    MMDK_COUNTER(blocks);
    MMDK_COUNTER(threads);
    MMDK_COUNTER(global_loads);
    MMDK_COUNTER(global_stores);
    MMDK_COUNTER(global_atomics);
    MMDK_COUNTER(sectors_loaded);
    MMDK_COUNTER(sectors_stored);
    MMDK_COUNTER(l2_loads);
    MMDK_COUNTER(l2_stores);
    MMDK_COUNTER(dram_loads);
    MMDK_COUNTER(dram_stores);
    MMDK_COUNTER(shared_loads);
    MMDK_COUNTER(shared_stores);
    MMDK_COUNTER(shared_wavefronts);
    MMDK_COUNTER(barriers);
    MMDK_COUNTER(exchanges);
    MMDK_COUNTER(mmas);
#undef MMDK_COUNTER
    result.insert(kernel, named);
  }
  return result;
}

}  // namespace

TORCH_LIBRARY(mmdk_emulation, library) {
  library.def("set_schedule(int seed) -> ()", set_schedule);
  library.def("set_device(int processors, int shared_bytes, int capability, int cache_bytes) -> ()",
              set_device);
  library.def("set_counting(bool on, int l2_bytes) -> ()", set_counting);
  library.def("counters() -> Dict(str, Dict(str, int))", counters);
  library.def("watch_for_races(bool on) -> ()", watch_for_races);
  library.def("guard_memory(bool on) -> ()", emulation::guard_memory);
  library.def(
      "deform_kernel2d(Tensor input, Tensor weight, Tensor? kernel_offset, Tensor? image_offset, "
      "Tensor? mask, Tensor? bias, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation) -> Tensor",
      mmdk::cuda::forward);
  library.def(
      "deform_kernel2d_backward(Tensor grad_output, Tensor input, Tensor weight, "
      "Tensor? kernel_offset, Tensor? image_offset, Tensor? mask, Tensor? bias, "
      "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool[6] output_mask) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      mmdk::cuda::backward);
  library.def("sample_kernel(Tensor weight, Tensor kernel_offset, int[2] kernel_size) -> Tensor",
              mmdk::cuda::sample_kernel);
  library.def(
      "sample_kernel_backward(Tensor grad_kernels, Tensor weight, Tensor kernel_offset, "
      "int[2] kernel_size, bool[2] output_mask) -> (Tensor, Tensor)",
      mmdk::cuda::sample_kernel_backward);
}
