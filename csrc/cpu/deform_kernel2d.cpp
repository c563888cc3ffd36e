// CPU kernels of mmdk::deform_kernel2d and its backward: layouts and dtypes. depthwise.h and
// sweeps.h do the work.
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/results.h"
#include "cpu/depthwise.h"
#include "cpu/sweeps.h"

namespace mmdk::cpu {
namespace {

// The tensors behind a Call, in accumulation precision; kept alive as long as it is used.
struct Staged {
  at::Tensor input, weight, kernel_offset, image_offset, mask;
};

at::Tensor stage(const OptionalTensor& tensor, at::ScalarType dtype) {
  return tensor.has_value() ? tensor->to(dtype).contiguous() : at::Tensor();
}

Staged stage(const Arguments& a) {
  const auto dtype = at::toOpMathType(a.input.scalar_type());
  return {a.input.to(dtype).contiguous(at::MemoryFormat::ChannelsLast),
          a.weight.to(dtype).contiguous(), stage(a.kernel_offset, dtype),
          stage(a.image_offset, dtype), stage(a.mask, dtype)};
}

template <typename T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

template <typename T>
T* mutable_data_or_null(at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

bool is_per_image(const OptionalTensor& offset) {
  return offset.has_value() && offset->size(2) == 1 && offset->size(3) == 1;
}

template <typename T>
Call<T> make_call(const Staged& staged, const Arguments& a, const Geometry<int64_t>& geometry) {
  Call<T> call{{staged.input.const_data_ptr<T>(), data_or_null<T>(staged.kernel_offset),
                data_or_null<T>(staged.image_offset), data_or_null<T>(staged.mask),
                is_per_image(a.kernel_offset)},
               geometry,
               make_blocks(geometry, a.image_offset.has_value()),
               {}};
  for (const Block& block : call.blocks) {
    call.weights.push_back(pack_weight(staged.weight, block, geometry));
  }
  return call;
}

// A result in `options`, from one computed in channels_last and accumulation precision.
at::Tensor finish(const at::Tensor& computed, const at::TensorOptions& options) {
  if (computed.scalar_type() == c10::typeMetaToScalarType(options.dtype()) &&
      options.memory_format_opt() == at::MemoryFormat::ChannelsLast) {
    return computed;
  }
  return at::empty(computed.sizes(), options).copy_(computed);
}

at::Tensor zeros_channels_last(const at::Tensor& like, at::IntArrayRef sizes) {
  return at::empty(sizes, like.options().memory_format(at::MemoryFormat::ChannelsLast)).zero_();
}

// In accumulation precision and in the layout it has, or contiguous where it has neither.
Activation stage_activation(const at::Tensor& tensor, at::ScalarType dtype) {
  const at::Tensor converted = tensor.to(dtype);
  return Activation(
      converted.is_contiguous(at::MemoryFormat::ChannelsLast) ? converted : converted.contiguous());
}

DepthwiseOperands stage_depthwise(const Arguments& a, at::ScalarType dtype) {
  return {stage_activation(a.input, dtype), a.weight.to(dtype).contiguous(),
          stage(a.kernel_offset, dtype), stage(a.bias, dtype)};
}

at::Tensor forward_depthwise(const Arguments& a, const Geometry<int64_t>& g) {
  const auto dtype = at::toOpMathType(a.input.scalar_type());
  const DepthwiseOperands operands = stage_depthwise(a, dtype);
  const at::Tensor output = at::empty({g.batch, g.out_channels, g.out_height, g.out_width},
                                      options_like(a.input).dtype(dtype));
  AT_DISPATCH_FLOATING_TYPES(dtype, "deform_kernel2d",
                             [&] { depthwise_forward<scalar_t>(operands, g, Activation(output)); });
  return output.to(a.input.scalar_type());
}

at::Tensor forward_general(const Arguments& a, const Geometry<int64_t>& g) {
  const Staged staged = stage(a);
  at::Tensor output =
      zeros_channels_last(staged.input, {g.batch, g.out_channels, g.out_height, g.out_width});
  if (a.bias.has_value()) output.copy_(a.bias->view({1, -1, 1, 1}).expand_as(output));
  AT_DISPATCH_FLOATING_TYPES(output.scalar_type(), "deform_kernel2d", [&] {
    sweep_forward(make_call<scalar_t>(staged, a, g), output.data_ptr<scalar_t>());
  });
  return finish(output, options_like(a.input));
}

bool takes_depthwise_way(const Arguments& a, const Geometry<int64_t>& g) {
  return is_fused_depthwise(g, a.image_offset.has_value(), a.mask.has_value());
}

at::Tensor forward(const at::Tensor& input, const at::Tensor& weight,
                   const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                   const OptionalTensor& mask, const OptionalTensor& bias,
                   at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation) {
  const Arguments a{input, weight,      kernel_offset, image_offset, mask,
                    bias,  kernel_size, stride,        padding,      dilation};
  const Geometry<int64_t> g = check_arguments<int64_t>(a);
  return takes_depthwise_way(a, g) ? forward_depthwise(a, g) : forward_general(a, g);
}

// Back to the dtype of the argument; offsets are summed over pixels when there is one per
// image.
at::Tensor finish_gradient(const at::Tensor& computed, const OptionalTensor& argument) {
  if (!computed.defined()) return computed;
  const bool same_size = computed.sizes() == argument->sizes();
  return (same_size ? computed : computed.sum({2, 3}, /*keepdim=*/true))
      .to(argument->scalar_type());
}

// Gradients as they are computed: that of input is finished, the others are in accumulation
// precision, kernel_offset per position; undefined where not wanted.
struct Gradients {
  at::Tensor input, weight, kernel_offset, image_offset, mask, bias;
};

at::Tensor new_offset_gradient(bool wanted, const at::Tensor& offset, const Geometry<int64_t>& g) {
  if (!wanted || !offset.defined()) return {};
  return at::zeros({g.batch, offset.size(1), g.out_height, g.out_width}, offset.options());
}

Gradients backward_depthwise(const at::Tensor& grad_output, const Arguments& a,
                             const Geometry<int64_t>& g, const std::array<bool, 6>& wanted) {
  const auto dtype = at::toOpMathType(a.input.scalar_type());
  const DepthwiseOperands operands = stage_depthwise(a, dtype);
  const Activation grad = stage_activation(grad_output, dtype);
  DepthwiseTargets targets;
  if (wanted[0]) {
    targets.input = at::empty(a.input.sizes(), options_like(a.input).dtype(dtype)).zero_();
  }
  if (wanted[1]) targets.weight = at::empty_like(operands.weight);
  targets.kernel_offset = new_offset_gradient(wanted[2], operands.kernel_offset, g);
  at::Tensor grad_bias;
  AT_DISPATCH_FLOATING_TYPES(dtype, "deform_kernel2d_backward", [&] {
    if (targets.input.defined() || targets.weight.defined() || targets.kernel_offset.defined()) {
      depthwise_backward<scalar_t>(operands, g, grad, targets);
    }
    if (wanted[5] && a.bias.has_value()) {
      grad_bias =
          sweep_backward_bias<scalar_t>(g, grad.tensor.contiguous(at::MemoryFormat::ChannelsLast));
    }
  });
  if (wanted[0]) targets.input = targets.input.to(a.input.scalar_type());
  return {targets.input, targets.weight, targets.kernel_offset, {}, {}, grad_bias};
}

Gradients backward_general(const at::Tensor& grad_output, const Arguments& a,
                           const Geometry<int64_t>& g, const std::array<bool, 6>& wanted) {
  const Staged staged = stage(a);
  const auto dtype = staged.input.scalar_type();
  const at::Tensor grad = grad_output.to(dtype).contiguous(at::MemoryFormat::ChannelsLast);
  Gradients to;
  if (wanted[0]) to.input = zeros_channels_last(staged.input, a.input.sizes());
  if (wanted[1]) to.weight = at::empty_like(staged.weight);
  to.kernel_offset = new_offset_gradient(wanted[2], staged.kernel_offset, g);
  to.image_offset = new_offset_gradient(wanted[3], staged.image_offset, g);
  to.mask = new_offset_gradient(wanted[4], staged.mask, g);
  AT_DISPATCH_FLOATING_TYPES(dtype, "deform_kernel2d_backward", [&] {
    const auto call = make_call<scalar_t>(staged, a, g);
    const scalar_t* grad_data = grad.const_data_ptr<scalar_t>();
    const GradTargets<scalar_t> targets{
        mutable_data_or_null<scalar_t>(to.input), mutable_data_or_null<scalar_t>(to.kernel_offset),
        mutable_data_or_null<scalar_t>(to.image_offset), mutable_data_or_null<scalar_t>(to.mask)};
    if (targets.any()) sweep_backward_data(call, grad_data, targets);
    if (wanted[5] && a.bias.has_value()) to.bias = sweep_backward_bias<scalar_t>(g, grad);
    if (wanted[1]) {
      const auto packed = sweep_backward_weight(call, grad_data);
      for (size_t block = 0; block < packed.size(); ++block) {
        unpack_weight(to.weight, packed[block], call.blocks[block], g);
      }
    }
  });
  if (wanted[0]) to.input = finish(to.input, options_like(a.input));
  return to;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& weight,
    const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
    const OptionalTensor& mask, const OptionalTensor& bias, at::IntArrayRef kernel_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
    std::array<bool, 6> output_mask) {
  const Arguments a{input, weight,      kernel_offset, image_offset, mask,
                    bias,  kernel_size, stride,        padding,      dilation};
  const Geometry<int64_t> g = check_arguments<int64_t>(a);
  check_grad_output(grad_output, a, g);
  const Gradients to = takes_depthwise_way(a, g)
                           ? backward_depthwise(grad_output, a, g, output_mask)
                           : backward_general(grad_output, a, g, output_mask);
  return {or_empty(to.input, input),
          or_empty(finish_gradient(to.weight, weight), input),
          or_empty(finish_gradient(to.kernel_offset, kernel_offset), input),
          or_empty(finish_gradient(to.image_offset, image_offset), input),
          or_empty(finish_gradient(to.mask, mask), input),
          or_empty(finish_gradient(to.bias, bias), input)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, CPU, library) {
  library.impl("deform_kernel2d", forward);
  library.impl("deform_kernel2d_backward", backward);
}

}  // namespace mmdk::cpu
