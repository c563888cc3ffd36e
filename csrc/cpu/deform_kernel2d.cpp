// CPU kernels of mmdk::deform_kernel2d and its backward: dtypes, and kernels that are the same at
// all positions. depthwise.h and dense.h do the work.
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "common/checks.h"
#include "common/results.h"
#include "cpu/bias.h"
#include "cpu/dense.h"
#include "cpu/depthwise.h"
#include "cpu/scope_sampler.h"

namespace mmdk::cpu {
namespace {

at::Tensor stage(const OptionalTensor& tensor, at::ScalarType dtype) {
  return tensor.has_value() ? tensor->to(dtype).contiguous() : at::Tensor();
}

bool is_per_position(const OptionalTensor& offset, const Geometry<int64_t>& g) {
  return offset.has_value() && offset->size(2) == g.out_height && offset->size(3) == g.out_width;
}

// A call in the form that the passes over pixels take. Where kernels are the same at all positions,
// they are sampled from their scopes beforehand.
class PreparedCall {
 public:
  PreparedCall(const Arguments& a, const Geometry<int64_t>& g)
      : dtype_(at::toOpMathType(a.input.scalar_type())) {
    // Plans of look-ups in the image count rows and columns in 32 bits.
    constexpr int64_t largest = std::numeric_limits<int32_t>::max() - 2;
    TORCH_CHECK_VALUE(!a.image_offset.has_value() || std::max(g.height, g.width) <= largest,
                      "deform_kernel2d: input has height ", g.height, " and width ", g.width,
                      ", expected at most ", largest, " beside an image_offset; cut it in parts");
    const at::Tensor weight = a.weight.to(dtype_).contiguous();
    call_.geometry = g;
    call_.input = a.input;
    call_.image_offset = stage(a.image_offset, dtype_);
    call_.mask = stage(a.mask, dtype_);
    call_.bias = stage(a.bias, dtype_);
    call_.chunks = make_chunks(g);
    if (is_per_position(a.kernel_offset, g)) {
      call_.weight = weight.unsqueeze(0);
      call_.kernel_offset = stage(a.kernel_offset, dtype_);
    } else if (!a.kernel_offset.has_value() && weight.sizes().slice(2) == a.kernel_size) {
      call_.weight = weight.unsqueeze(0);
    } else {
      const at::Tensor offset = a.kernel_offset.has_value()
                                    ? stage(a.kernel_offset, dtype_).flatten(1)
                                    : at::zeros({1, g.taps() * 2}, weight.options());
      sampler_ = std::make_unique<ScopeSampler>(weight, offset, a.kernel_size, g.in_channels);
      call_.weight = sampler_->sample();
    }
  }

  const Call& call() const { return call_; }
  at::ScalarType dtype() const { return dtype_; }

  // Gradients of the call as it was made, from those of the call as it was prepared.
  void finish(Gradients& to, bool weight, bool kernel_offset) const {
    if (!to.weight.defined()) return;
    if (!sampler_) {
      to.weight = to.weight.squeeze(0);
      return;
    }
    const auto sampled = sampler_->backward(to.weight, weight, kernel_offset);
    to.weight = sampled.weight;
    if (kernel_offset) to.kernel_offset = sampled.offset.unsqueeze(2).unsqueeze(3);
  }

 private:
  at::ScalarType dtype_;
  Call call_;
  std::unique_ptr<ScopeSampler> sampler_;
};

at::Tensor forward(const at::Tensor& input, const at::Tensor& weight,
                   const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                   const OptionalTensor& mask, const OptionalTensor& bias,
                   at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation) {
  const Arguments a{input, weight,      kernel_offset, image_offset, mask,
                    bias,  kernel_size, stride,        padding,      dilation};
  const Geometry<int64_t> g = check_arguments<int64_t>(a);
  const at::Tensor output =
      at::empty({g.batch, g.out_channels, g.out_height, g.out_width}, options_like(input));
  if (g.batch == 0) return output;
  const PreparedCall prepared(a, g);
  AT_DISPATCH_FLOATING_TYPES(prepared.dtype(), "deform_kernel2d", [&] {
    if (g.depthwise()) {
      depthwise_forward<scalar_t>(prepared.call(), Activation(output));
    } else {
      dense_forward<scalar_t>(prepared.call(), output);
    }
  });
  return output;
}

// Whether the taps of all outputs reach every row of the input.
bool reaches_all_rows(const Geometry<int64_t>& g) { return g.stride[0] == 1 && g.dilation[0] == 1; }

// Where the passes over pixels put gradients.
Gradients make_gradients(const Call& call, const std::array<bool, 6>& wanted,
                         const at::TensorOptions& options) {
  const auto zeros_like_if = [](bool condition, const at::Tensor& like) {
    return condition && like.defined() ? at::zeros_like(like) : at::Tensor();
  };
  Gradients to;
  if (wanted[0]) {
    to.input = at::empty(call.input.sizes(), options);
    if (!reaches_all_rows(call.geometry)) to.input.zero_();
  }
  // A kernel's offsets that are the same at all positions get their gradient by that of the kernel.
  to.weight = zeros_like_if(wanted[1] || (wanted[2] && call.is_rigid()), call.weight);
  to.kernel_offset = zeros_like_if(wanted[2], call.kernel_offset);
  to.image_offset = zeros_like_if(wanted[3], call.image_offset);
  to.mask = zeros_like_if(wanted[4], call.mask);
  to.bias = zeros_like_if(wanted[5], call.bias);
  return to;
}

template <typename T>
void compute_gradients(const Call& call, const at::Tensor& grad_output, const Gradients& to) {
  const Activation grad(grad_output);
  if (to.input.defined() || to.weight.defined() || to.kernel_offset.defined() ||
      to.image_offset.defined() || to.mask.defined()) {
    if (call.geometry.depthwise()) {
      depthwise_backward<T>(call, grad, to);
    } else {
      dense_backward<T>(call, grad, to);
    }
  }
  if (to.bias.defined()) add_up_channels(grad, call.geometry.batch, data_or_null<T>(to.bias));
}

// In the dtype of the argument; an empty batch's are zero.
at::Tensor finish_gradient(const at::Tensor& computed, bool wanted, const OptionalTensor& argument,
                           const at::Tensor& input) {
  if (!wanted || !argument.has_value()) return or_empty({}, input);
  if (computed.defined()) return computed.to(argument->scalar_type());
  return at::zeros(argument->sizes(), argument->options());
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
  Gradients to;
  if (g.batch > 0) {
    const PreparedCall prepared(a, g);
    to = make_gradients(prepared.call(), output_mask, options_like(input));
    AT_DISPATCH_FLOATING_TYPES(prepared.dtype(), "deform_kernel2d_backward", [&] {
      compute_gradients<scalar_t>(prepared.call(), grad_output, to);
    });
    prepared.finish(to, output_mask[1], output_mask[2] && kernel_offset.has_value());
  } else if (output_mask[0]) {
    to.input = at::empty(input.sizes(), options_like(input));
  }
  return {or_empty(to.input, input),
          finish_gradient(to.weight, output_mask[1], weight, input),
          finish_gradient(to.kernel_offset, output_mask[2], kernel_offset, input),
          finish_gradient(to.image_offset, output_mask[3], image_offset, input),
          finish_gradient(to.mask, output_mask[4], mask, input),
          finish_gradient(to.bias, output_mask[5], bias, input)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, CPU, library) {
  library.impl("deform_kernel2d", forward);
  library.impl("deform_kernel2d_backward", backward);
}

}  // namespace mmdk::cpu
