// CPU kernels of mmdk::deform_kernel2d and its backward: layouts and dtypes; sweeps.h does the
// work.
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/results.h"
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
  Call<T> call;
  call.operands = {staged.input.const_data_ptr<T>(), data_or_null<T>(staged.kernel_offset),
                   data_or_null<T>(staged.image_offset), data_or_null<T>(staged.mask),
                   is_per_image(a.kernel_offset)};
  call.geometry = geometry;
  call.blocks = make_blocks(geometry);
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

at::Tensor forward(const at::Tensor& input, const at::Tensor& weight,
                   const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                   const OptionalTensor& mask, const OptionalTensor& bias,
                   at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation) {
  const Arguments a{input, weight,      kernel_offset, image_offset, mask,
                    bias,  kernel_size, stride,        padding,      dilation};
  const Geometry<int64_t> g = check_arguments<int64_t>(a);
  const Staged staged = stage(a);
  at::Tensor output =
      zeros_channels_last(staged.input, {g.batch, g.out_channels, g.out_height, g.out_width});
  if (bias.has_value()) output.copy_(bias->view({1, -1, 1, 1}).expand_as(output));
  AT_DISPATCH_FLOATING_TYPES(output.scalar_type(), "deform_kernel2d", [&] {
    sweep_forward(make_call<scalar_t>(staged, a, g), output.data_ptr<scalar_t>());
  });
  return finish(output, options_like(input));
}

// A zero gradient for an optional argument; undefined when it is absent or not asked for.
at::Tensor new_gradient(bool wanted, const at::Tensor& argument) {
  return wanted && argument.defined() ? at::zeros_like(argument) : at::Tensor();
}

// Offsets and masks: back to the dtype of the argument, summed over pixels when there is one per
// image.
at::Tensor finish_gradient(const at::Tensor& computed, const OptionalTensor& argument) {
  if (!computed.defined()) return computed;
  const bool same_size = computed.sizes() == argument->sizes();
  return (same_size ? computed : computed.sum({2, 3}, /*keepdim=*/true))
      .to(argument->scalar_type());
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
  const Staged staged = stage(a);
  const auto dtype = staged.input.scalar_type();
  const at::Tensor grad = grad_output.to(dtype).contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor grad_input, grad_weight, grad_bias;
  if (output_mask[0]) grad_input = zeros_channels_last(staged.input, input.sizes());
  if (output_mask[1]) grad_weight = at::empty_like(staged.weight);
  at::Tensor grad_kernel_offset =
      output_mask[2] && kernel_offset.has_value()
          ? at::zeros({g.batch, kernel_offset->size(1), g.out_height, g.out_width},
                      staged.kernel_offset.options())
          : at::Tensor();
  at::Tensor grad_image_offset = new_gradient(output_mask[3], staged.image_offset);
  at::Tensor grad_mask = new_gradient(output_mask[4], staged.mask);
  AT_DISPATCH_FLOATING_TYPES(dtype, "deform_kernel2d_backward", [&] {
    const auto call = make_call<scalar_t>(staged, a, g);
    const scalar_t* grad_data = grad.const_data_ptr<scalar_t>();
    if (output_mask[0] || grad_kernel_offset.defined() || grad_image_offset.defined() ||
        grad_mask.defined()) {
      sweep_backward_data<scalar_t>(call, grad_data,
                                    {mutable_data_or_null<scalar_t>(grad_input),
                                     mutable_data_or_null<scalar_t>(grad_kernel_offset),
                                     mutable_data_or_null<scalar_t>(grad_image_offset),
                                     mutable_data_or_null<scalar_t>(grad_mask)});
    }
    if (output_mask[5] && bias.has_value()) grad_bias = sweep_backward_bias<scalar_t>(g, grad);
    if (output_mask[1]) {
      const auto packed = sweep_backward_weight(call, grad_data);
      for (size_t block = 0; block < packed.size(); ++block) {
        unpack_weight(grad_weight, packed[block], call.blocks[block], g);
      }
    }
  });
  if (grad_input.defined()) grad_input = finish(grad_input, options_like(input));
  if (grad_weight.defined()) grad_weight = grad_weight.to(weight.scalar_type());
  return {or_empty(grad_input, input),
          or_empty(grad_weight, input),
          or_empty(finish_gradient(grad_kernel_offset, kernel_offset), input),
          or_empty(finish_gradient(grad_image_offset, image_offset), input),
          or_empty(finish_gradient(grad_mask, mask), input),
          or_empty(finish_gradient(grad_bias, bias), input)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, CPU, library) {
  library.impl("deform_kernel2d", forward);
  library.impl("deform_kernel2d_backward", backward);
}

}  // namespace mmdk::cpu
