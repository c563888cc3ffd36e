// Derivatives. Each backward is an operator of its own; differentiating it again is refused.
#include <torch/library.h>

#include "node.h"
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

template <size_t n>
std::array<bool, n> wanted_gradients(AutogradContext* context) {
  std::array<bool, n> wanted;
  for (size_t i = 0; i < n; ++i) wanted[i] = context->needs_input_grad(i);
  return wanted;
}

// The operators return an empty tensor for a gradient nobody wants, autograd an undefined one.
template <typename Gradients, size_t n>
variable_list only_wanted(const Gradients& gradients, const std::array<bool, n>& wanted) {
  variable_list result(n);
  std::apply(
      [&](const auto&... gradient) {
        size_t i = 0;
        ((wanted[i] ? void(result[i] = gradient) : void(), ++i), ...);
      },
      gradients);
  return result;
}

struct DeformKernel2d {
  static constexpr const char* name = "deform_kernel2d";
  static constexpr bool is_traceable = false;

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    if (!gradients[0].defined()) return variable_list(6);
    const auto saved = context->get_saved_variables();
    const auto wanted = wanted_gradients<6>(context);
    const auto geometry = [&](const char* key) { return context->saved_data[key].toIntVector(); };
    return only_wanted(
        operators::deform_kernel2d_backward(
            gradients[0], saved[0], saved[1], or_absent(saved[2]), or_absent(saved[3]),
            or_absent(saved[4]), or_absent(saved[5]), geometry("kernel_size"), geometry("stride"),
            geometry("padding"), geometry("dilation"), wanted),
        wanted);
  }
};

struct SampleKernel {
  static constexpr const char* name = "sample_kernel";
  static constexpr bool is_traceable = false;

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    if (!gradients[0].defined()) return variable_list(2);
    const auto saved = context->get_saved_variables();
    const auto wanted = wanted_gradients<2>(context);
    return only_wanted(
        operators::sample_kernel_backward(gradients[0], saved[0], saved[1],
                                          context->saved_data["kernel_size"].toIntVector(), wanted),
        wanted);
  }
};

template <typename Operator>
struct BackwardOf {
  static constexpr const char* name = Operator::name;
  static constexpr bool is_traceable = false;

  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*gradients*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, name,
                                ": second derivatives are not implemented; differentiate once, "
                                "without create_graph=True");
  }
};

at::Tensor deform_kernel2d(const at::Tensor& input, const at::Tensor& weight,
                           const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                           const OptionalTensor& mask, const OptionalTensor& bias,
                           at::IntArrayRef kernel_size, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation) {
  const auto node =
      node_for<DeformKernel2d>(input, weight, kernel_offset, image_offset, mask, bias);
  if (node) {
    node->ctx_.save_for_backward({input, weight, or_undefined(kernel_offset),
                                  or_undefined(image_offset), or_undefined(mask),
                                  or_undefined(bias)});
    node->ctx_.saved_data["kernel_size"] = kernel_size;
    node->ctx_.saved_data["stride"] = stride;
    node->ctx_.saved_data["padding"] = padding;
    node->ctx_.saved_data["dilation"] = dilation;
  }
  return record(node, [&] {
    return operators::deform_kernel2d(input, weight, kernel_offset, image_offset, mask, bias,
                                      kernel_size, stride, padding, dilation);
  });
}

Six deform_kernel2d_backward(const at::Tensor& grad_output, const at::Tensor& input,
                             const at::Tensor& weight, const OptionalTensor& kernel_offset,
                             const OptionalTensor& image_offset, const OptionalTensor& mask,
                             const OptionalTensor& bias, at::IntArrayRef kernel_size,
                             at::IntArrayRef stride, at::IntArrayRef padding,
                             at::IntArrayRef dilation, std::array<bool, 6> output_mask) {
  const auto node = node_for<BackwardOf<DeformKernel2d>>(grad_output, input, weight, kernel_offset,
                                                         image_offset, mask, bias);
  return record(node, [&] {
    return operators::deform_kernel2d_backward(grad_output, input, weight, kernel_offset,
                                               image_offset, mask, bias, kernel_size, stride,
                                               padding, dilation, output_mask);
  });
}

at::Tensor sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size) {
  const auto node = node_for<SampleKernel>(weight, kernel_offset);
  if (node) {
    node->ctx_.save_for_backward({weight, kernel_offset});
    node->ctx_.saved_data["kernel_size"] = kernel_size;
  }
  return record(node, [&] { return operators::sample_kernel(weight, kernel_offset, kernel_size); });
}

Two sample_kernel_backward(const at::Tensor& grad_kernels, const at::Tensor& weight,
                           const at::Tensor& kernel_offset, at::IntArrayRef kernel_size,
                           std::array<bool, 2> output_mask) {
  const auto node = node_for<BackwardOf<SampleKernel>>(grad_kernels, weight, kernel_offset);
  return record(node, [&] {
    return operators::sample_kernel_backward(grad_kernels, weight, kernel_offset, kernel_size,
                                             output_mask);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, Autograd, library) {
  library.impl("deform_kernel2d", deform_kernel2d);
  library.impl("deform_kernel2d_backward", deform_kernel2d_backward);
  library.impl("sample_kernel", sample_kernel);
  library.impl("sample_kernel_backward", sample_kernel_backward);
}

}  // namespace mmdk
