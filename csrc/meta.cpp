// Shape inference: the results' sizes, dtypes and memory formats, without data.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/results.h"

namespace mmdk {
namespace {

at::Tensor deform_kernel2d(const at::Tensor& input, const at::Tensor& weight,
                           const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                           const OptionalTensor& mask, const OptionalTensor& bias,
                           at::IntArrayRef kernel_size, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation) {
  const auto g = check_arguments<c10::SymInt>({input, weight, kernel_offset, image_offset, mask,
                                               bias, kernel_size, stride, padding, dilation});
  return at::empty_symint({g.batch, g.out_channels, g.out_height, g.out_width},
                          options_like(input));
}

at::Tensor gradient_of(const OptionalTensor& argument, bool wanted, const at::Tensor& like) {
  if (!wanted || !argument.has_value()) return or_empty({}, like);
  return at::empty_symint(argument->sym_sizes(), argument->options());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
deform_kernel2d_backward(const at::Tensor& grad_output, const at::Tensor& input,
                         const at::Tensor& weight, const OptionalTensor& kernel_offset,
                         const OptionalTensor& image_offset, const OptionalTensor& mask,
                         const OptionalTensor& bias, at::IntArrayRef kernel_size,
                         at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                         std::array<bool, 6> output_mask) {
  const Arguments a{input, weight,      kernel_offset, image_offset, mask,
                    bias,  kernel_size, stride,        padding,      dilation};
  check_grad_output(grad_output, a, check_arguments<c10::SymInt>(a));
  at::Tensor grad_input;
  if (output_mask[0]) grad_input = at::empty_symint(input.sym_sizes(), options_like(input));
  return {or_empty(grad_input, input),
          gradient_of(weight, output_mask[1], input),
          gradient_of(kernel_offset, output_mask[2], input),
          gradient_of(image_offset, output_mask[3], input),
          gradient_of(mask, output_mask[4], input),
          gradient_of(bias, output_mask[5], input)};
}

at::Tensor sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  return at::empty_symint({kernel_offset.sym_size(0), weight.sym_size(0), weight.sym_size(1),
                           kernel_size[0], kernel_size[1]},
                          weight.options());
}

std::tuple<at::Tensor, at::Tensor> sample_kernel_backward(const at::Tensor& grad_kernels,
                                                          const at::Tensor& weight,
                                                          const at::Tensor& kernel_offset,
                                                          at::IntArrayRef kernel_size,
                                                          std::array<bool, 2> output_mask) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  check_grad_kernels(grad_kernels, weight, kernel_offset, kernel_size);
  return {gradient_of(weight, output_mask[0], weight),
          gradient_of(kernel_offset, output_mask[1], weight)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, Meta, library) {
  library.impl("deform_kernel2d", deform_kernel2d);
  library.impl("deform_kernel2d_backward", deform_kernel2d_backward);
  library.impl("sample_kernel", sample_kernel);
  library.impl("sample_kernel_backward", sample_kernel_backward);
}

}  // namespace mmdk
