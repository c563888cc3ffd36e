// The registered operators as C++ functions: calls go through the dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include "common/checks.h"

namespace mmdk::operators {

using Six = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Two = std::tuple<at::Tensor, at::Tensor>;

inline at::Tensor deform_kernel2d(const at::Tensor& input, const at::Tensor& weight,
                                  const OptionalTensor& kernel_offset,
                                  const OptionalTensor& image_offset, const OptionalTensor& mask,
                                  const OptionalTensor& bias, at::IntArrayRef kernel_size,
                                  at::IntArrayRef stride, at::IntArrayRef padding,
                                  at::IntArrayRef dilation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mmdk::deform_kernel2d", "")
                             .typed<decltype(deform_kernel2d)>();
  return op.call(input, weight, kernel_offset, image_offset, mask, bias, kernel_size, stride,
                 padding, dilation);
}

inline Six deform_kernel2d_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                    const at::Tensor& weight, const OptionalTensor& kernel_offset,
                                    const OptionalTensor& image_offset, const OptionalTensor& mask,
                                    const OptionalTensor& bias, at::IntArrayRef kernel_size,
                                    at::IntArrayRef stride, at::IntArrayRef padding,
                                    at::IntArrayRef dilation, std::array<bool, 6> output_mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mmdk::deform_kernel2d_backward", "")
                             .typed<decltype(deform_kernel2d_backward)>();
  return op.call(grad_output, input, weight, kernel_offset, image_offset, mask, bias, kernel_size,
                 stride, padding, dilation, output_mask);
}

inline at::Tensor sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                                at::IntArrayRef kernel_size) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mmdk::sample_kernel", "")
                             .typed<decltype(sample_kernel)>();
  return op.call(weight, kernel_offset, kernel_size);
}

inline Two sample_kernel_backward(const at::Tensor& grad_kernels, const at::Tensor& weight,
                                  const at::Tensor& kernel_offset, at::IntArrayRef kernel_size,
                                  std::array<bool, 2> output_mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mmdk::sample_kernel_backward", "")
                             .typed<decltype(sample_kernel_backward)>();
  return op.call(grad_kernels, weight, kernel_offset, kernel_size, output_mask);
}

}  // namespace mmdk::operators
