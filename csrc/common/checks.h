// Argument checks, the same for every device and for shape inference. Each message names the
// argument, what came, what was expected and what to do.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Optional.h>

#include "common/geometry.h"

namespace mmdk {

// c10::optional is std::optional since torch 2.3 and a class of its own before.
using OptionalTensor = c10::optional<at::Tensor>;

// The arguments of deform_kernel2d, as its kernels receive them.
struct Arguments {
  const at::Tensor& input;
  const at::Tensor& weight;
  const OptionalTensor& kernel_offset;
  const OptionalTensor& image_offset;
  const OptionalTensor& mask;
  const OptionalTensor& bias;
  at::IntArrayRef kernel_size;
  at::IntArrayRef stride;
  at::IntArrayRef padding;
  at::IntArrayRef dilation;
};

// Throws c10::Error when the arguments do not fit together. Int is int64_t or c10::SymInt.
template <typename Int>
Geometry<Int> check_arguments(const Arguments& arguments);

// The gradient that backward receives must have the output's shape, dtype and device.
template <typename Int>
void check_grad_output(const at::Tensor& grad_output, const Arguments& arguments,
                       const Geometry<Int>& geometry);

// The arguments of sample_kernel: weight (C_out, C_in/groups, S_h, S_w), kernel_offset
// (N, K_h*K_w*2).
void check_sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size);

// The gradient that its backward receives, of the sampled kernels' shape.
void check_grad_kernels(const at::Tensor& grad_kernels, const at::Tensor& weight,
                        const at::Tensor& kernel_offset, at::IntArrayRef kernel_size);

}  // namespace mmdk
