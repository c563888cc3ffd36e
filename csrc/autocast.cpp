// Autocast. The rule, on the CPU and on CUDA: input, weight and bias are computed in the autocast
// dtype; offsets and mask, being coordinates and factors, keep float32 when they come so, and may
// be of the autocast dtype. float64 is left alone throughout, as PyTorch's own operators leave it.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "operators.h"

namespace mmdk {
namespace {

using at::autocast::cached_cast;

// Another half type would fit neither.
OptionalTensor cast_offset(const OptionalTensor& offset, at::ScalarType target,
                           c10::DeviceType device) {
  if (!offset.has_value() || offset->scalar_type() == target) return offset;
  return cached_cast(at::kFloat, *offset, device);
}

template <c10::DeviceType device, c10::DispatchKey key>
at::Tensor deform_kernel2d(const at::Tensor& input, const at::Tensor& weight,
                           const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                           const OptionalTensor& mask, const OptionalTensor& bias,
                           at::IntArrayRef kernel_size, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKeySet{key});
  const at::ScalarType target = at::autocast::get_lower_precision_fp_from_device_type(device);
  return operators::deform_kernel2d(
      cached_cast(target, input, device), cached_cast(target, weight, device),
      cast_offset(kernel_offset, target, device), cast_offset(image_offset, target, device),
      cast_offset(mask, target, device), cached_cast(target, bias, device), kernel_size, stride,
      padding, dilation);
}

template <c10::DeviceType device, c10::DispatchKey key>
at::Tensor sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKeySet{key});
  const at::ScalarType target = at::autocast::get_lower_precision_fp_from_device_type(device);
  return operators::sample_kernel(cached_cast(target, weight, device),
                                  *cast_offset(kernel_offset, target, device), kernel_size);
}

template <c10::DeviceType device, c10::DispatchKey key>
void register_for(torch::Library& library) {
  library.impl("deform_kernel2d", deform_kernel2d<device, key>);
  library.impl("sample_kernel", sample_kernel<device, key>);
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, AutocastCPU, library) {
  register_for<c10::DeviceType::CPU, c10::DispatchKey::AutocastCPU>(library);
}

TORCH_LIBRARY_IMPL(mmdk, AutocastCUDA, library) {
  register_for<c10::DeviceType::CUDA, c10::DispatchKey::Autocast>(library);
}

}  // namespace mmdk
