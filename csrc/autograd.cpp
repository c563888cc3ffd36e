// Derivatives. Each backward is an operator of its own; differentiating it again is refused.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "operators.h"

namespace mmdk {
namespace {

using operators::Six;
using operators::Two;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Saved variables are undefined where an optional argument is absent.
at::Tensor or_undefined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

OptionalTensor or_absent(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : OptionalTensor();
}

[[noreturn]] void refuse_double_backward(const char* op) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op,
                              ": second derivatives are not implemented; differentiate once, "
                              "without create_graph=True");
}

class DeformKernel2d : public torch::autograd::Function<DeformKernel2d> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& weight, const OptionalTensor& kernel_offset,
                            const OptionalTensor& image_offset, const OptionalTensor& mask,
                            const OptionalTensor& bias, at::IntArrayRef kernel_size,
                            at::IntArrayRef stride, at::IntArrayRef padding,
                            at::IntArrayRef dilation) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({input, weight, or_undefined(kernel_offset),
                                or_undefined(image_offset), or_undefined(mask),
                                or_undefined(bias)});
    context->saved_data["kernel_size"] = kernel_size;
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    context->saved_data["dilation"] = dilation;
    return operators::deform_kernel2d(input, weight, kernel_offset, image_offset, mask, bias,
                                      kernel_size, stride, padding, dilation);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    std::array<bool, 6> wanted;
    // Only arguments that are there have an edge.
    for (size_t i = 0, edge = 0; i < wanted.size(); ++i) {
      wanted[i] = saved[i].defined() && context->needs_input_grad(edge++);
    }
    const auto grads = operators::deform_kernel2d_backward(
        gradients[0], saved[0], saved[1], or_absent(saved[2]), or_absent(saved[3]),
        or_absent(saved[4]), or_absent(saved[5]), context->saved_data["kernel_size"].toIntVector(),
        context->saved_data["stride"].toIntVector(), context->saved_data["padding"].toIntVector(),
        context->saved_data["dilation"].toIntVector(), wanted);
    const at::Tensor none;
    const auto if_wanted = [&](size_t i, const at::Tensor& grad) {
      return wanted[i] ? grad : none;
    };
    return {if_wanted(0, std::get<0>(grads)),
            if_wanted(1, std::get<1>(grads)),
            if_wanted(2, std::get<2>(grads)),
            if_wanted(3, std::get<3>(grads)),
            if_wanted(4, std::get<4>(grads)),
            if_wanted(5, std::get<5>(grads)),
            none,
            none,
            none,
            none};
  }
};

class DeformKernel2dBackward : public torch::autograd::Function<DeformKernel2dBackward> {
 public:
  static variable_list forward(AutogradContext* /*context*/, const at::Tensor& grad_output,
                               const at::Tensor& input, const at::Tensor& weight,
                               const OptionalTensor& kernel_offset,
                               const OptionalTensor& image_offset, const OptionalTensor& mask,
                               const OptionalTensor& bias, at::IntArrayRef kernel_size,
                               at::IntArrayRef stride, at::IntArrayRef padding,
                               at::IntArrayRef dilation, std::array<bool, 6> output_mask) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto grads = operators::deform_kernel2d_backward(
        grad_output, input, weight, kernel_offset, image_offset, mask, bias, kernel_size, stride,
        padding, dilation, output_mask);
    return {std::get<0>(grads), std::get<1>(grads), std::get<2>(grads),
            std::get<3>(grads), std::get<4>(grads), std::get<5>(grads)};
  }

  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*gradients*/) {
    refuse_double_backward("deform_kernel2d");
  }
};

class SampleKernel : public torch::autograd::Function<SampleKernel> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight,
                            const at::Tensor& kernel_offset, at::IntArrayRef kernel_size) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({weight, kernel_offset});
    context->saved_data["kernel_size"] = kernel_size;
    return operators::sample_kernel(weight, kernel_offset, kernel_size);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const std::array<bool, 2> wanted{context->needs_input_grad(0), context->needs_input_grad(1)};
    const auto grads = operators::sample_kernel_backward(
        gradients[0], saved[0], saved[1], context->saved_data["kernel_size"].toIntVector(), wanted);
    const at::Tensor none;
    return {wanted[0] ? std::get<0>(grads) : none, wanted[1] ? std::get<1>(grads) : none, none};
  }
};

class SampleKernelBackward : public torch::autograd::Function<SampleKernelBackward> {
 public:
  static variable_list forward(AutogradContext* /*context*/, const at::Tensor& grad_kernels,
                               const at::Tensor& weight, const at::Tensor& kernel_offset,
                               at::IntArrayRef kernel_size, std::array<bool, 2> output_mask) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto grads = operators::sample_kernel_backward(grad_kernels, weight, kernel_offset,
                                                         kernel_size, output_mask);
    return {std::get<0>(grads), std::get<1>(grads)};
  }

  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*gradients*/) {
    refuse_double_backward("sample_kernel");
  }
};

at::Tensor deform_kernel2d(const at::Tensor& input, const at::Tensor& weight,
                           const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                           const OptionalTensor& mask, const OptionalTensor& bias,
                           at::IntArrayRef kernel_size, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation) {
  return DeformKernel2d::apply(input, weight, kernel_offset, image_offset, mask, bias, kernel_size,
                               stride, padding, dilation);
}

Six deform_kernel2d_backward(const at::Tensor& grad_output, const at::Tensor& input,
                             const at::Tensor& weight, const OptionalTensor& kernel_offset,
                             const OptionalTensor& image_offset, const OptionalTensor& mask,
                             const OptionalTensor& bias, at::IntArrayRef kernel_size,
                             at::IntArrayRef stride, at::IntArrayRef padding,
                             at::IntArrayRef dilation, std::array<bool, 6> output_mask) {
  const auto grads =
      DeformKernel2dBackward::apply(grad_output, input, weight, kernel_offset, image_offset, mask,
                                    bias, kernel_size, stride, padding, dilation, output_mask);
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

at::Tensor sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size) {
  return SampleKernel::apply(weight, kernel_offset, kernel_size);
}

Two sample_kernel_backward(const at::Tensor& grad_kernels, const at::Tensor& weight,
                           const at::Tensor& kernel_offset, at::IntArrayRef kernel_size,
                           std::array<bool, 2> output_mask) {
  const auto grads =
      SampleKernelBackward::apply(grad_kernels, weight, kernel_offset, kernel_size, output_mask);
  return {grads[0], grads[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, Autograd, library) {
  library.impl("deform_kernel2d", deform_kernel2d);
  library.impl("deform_kernel2d_backward", deform_kernel2d_backward);
  library.impl("sample_kernel", sample_kernel);
  library.impl("sample_kernel_backward", sample_kernel_backward);
}

}  // namespace mmdk
