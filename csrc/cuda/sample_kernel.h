// Kernels sampled from scopes on a GPU.
#pragma once

#include "operators.h"

namespace mmdk::cuda {

at::Tensor sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size);

operators::Two sample_kernel_backward(const at::Tensor& grad_kernels, const at::Tensor& weight,
                                      const at::Tensor& kernel_offset, at::IntArrayRef kernel_size,
                                      std::array<bool, 2> output_mask);

// For a convolution's input channels: weight (C_out, C_in/groups, S_h, S_w), offset (N,
// groups of offsets * K_h*K_w*2), both contiguous and in accumulation precision.
struct ScopeSamples {
  const at::Tensor& weight;
  const at::Tensor& offset;
  at::IntArrayRef kernel_size;
  int64_t in_channels;

  at::Tensor kernels() const;  // (N, C_out, C_in/groups, K_h, K_w)

  // From the gradient of the kernels.
  at::Tensor weight_gradient(const at::Tensor& gradient) const;
  at::Tensor offset_gradient(const at::Tensor& gradient) const;
};

}  // namespace mmdk::cuda
