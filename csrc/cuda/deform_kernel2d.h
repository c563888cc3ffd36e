// The operators on a GPU, as the dispatcher calls them.
#pragma once

#include "operators.h"

namespace mmdk::cuda {

at::Tensor forward(const at::Tensor& input, const at::Tensor& weight,
                   const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                   const OptionalTensor& mask, const OptionalTensor& bias,
                   at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation);

operators::Six backward(const at::Tensor& grad_output, const at::Tensor& input,
                        const at::Tensor& weight, const OptionalTensor& kernel_offset,
                        const OptionalTensor& image_offset, const OptionalTensor& mask,
                        const OptionalTensor& bias, at::IntArrayRef kernel_size,
                        at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                        std::array<bool, 6> output_mask);

}  // namespace mmdk::cuda
