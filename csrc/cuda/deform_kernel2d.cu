#include "cuda/deform_kernel2d.h"

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "common/results.h"
#include "cuda/dense.h"
#include "cuda/depthwise.h"
#include "cuda/sample_kernel.h"

namespace mmdk::cuda {
namespace {

bool is_per_position(const OptionalTensor& offset, const Geometry<int64_t>& g) {
  return offset.has_value() && offset->size(2) == g.out_height && offset->size(3) == g.out_width;
}

// As it is where its rows follow upon each other.
at::Tensor with_whole_rows(const OptionalTensor& tensor) {
  if (!tensor.has_value()) return {};
  const bool whole = tensor->size(2) == 1 || tensor->size(3) == 1
                         ? tensor->is_contiguous()
                         : tensor->stride(2) == tensor->size(3) * tensor->stride(3);
  return whole ? *tensor : tensor->contiguous();
}

// A call in the form that the kernels take. Where kernels are the same at all positions, they are
// sampled from their scopes beforehand, and if nothing else is deformed either, it is a
// convolution.
class PreparedCall {
 public:
  PreparedCall(const Arguments& a, const Geometry<int64_t>& g)
      : arguments_(a), dtype_(at::toOpMathType(a.input.scalar_type())) {
    check_limits(a, g);
    const bool in_scope = is_per_position(a.kernel_offset, g);
    const bool in_image = a.image_offset.has_value();
    scope_ = a.weight.to(dtype_).contiguous();
    call_.geometry = g;
    call_.input = a.input.contiguous(a.input.suggest_memory_format());
    call_.image_offset = with_whole_rows(a.image_offset);
    call_.mask = with_whole_rows(a.mask);
    // Its own memory, so that it is aligned.
    if (a.bias.has_value()) call_.bias = a.bias->to(dtype_).clone();
    if (in_scope) {
      call_.look = in_image ? Look::kScopeAndImage : Look::kScope;
      call_.kernel_offset = with_whole_rows(a.kernel_offset);
      call_.weight = scope_.unsqueeze(0);
      return;
    }
    // A kernel at whole cells of a scope of its own size is one more case of a look-up there.
    call_.look = in_image ? Look::kImage : Look::kScope;
    call_.geometry.scope_height = g.kernel[0];
    call_.geometry.scope_width = g.kernel[1];
    call_.geometry.kernel_offset_groups = 1;
    if (a.kernel_offset.has_value() || a.weight.sizes().slice(2) != a.kernel_size) {
      offset_ = a.kernel_offset.has_value() ? a.kernel_offset->to(dtype_).flatten(1).contiguous()
                                            : at::zeros({1, g.taps() * 2}, scope_.options());
      call_.weight = samples().kernels();
    } else {
      call_.weight = scope_.unsqueeze(0);
    }
  }

  const Call& call() const { return call_; }
  bool is_convolution() const {
    return !call_.kernel_offset.defined() && !call_.image_offset.defined() && !call_.mask.defined();
  }
  bool is_sampled() const { return offset_.defined(); }

  // Gradients of the call as it was made, from those of the call as it was prepared.
  void finish(CallGradients& to, bool weight, bool kernel_offset) const {
    if (!to.weight.defined()) return;
    if (!is_sampled()) {
      to.weight = to.weight.squeeze(0);
      return;
    }
    const at::Tensor kernels = to.weight.to(dtype_);
    to.weight = weight ? samples().weight_gradient(kernels) : at::Tensor();
    if (kernel_offset) to.kernel_offset = samples().offset_gradient(kernels).view(offset_sizes());
  }

 private:
  static void check_limits(const Arguments& a, const Geometry<int64_t>& g) {
    constexpr int64_t largest = std::numeric_limits<int32_t>::max() - 2;
    TORCH_CHECK_VALUE(!a.image_offset.has_value() || std::max(g.height, g.width) <= largest,
                      "deform_kernel2d: input has height ", g.height, " and width ", g.width,
                      ", expected at most ", largest, " beside an image_offset; cut it in parts");
    TORCH_CHECK_VALUE(g.cells() <= largest / 4 && g.taps() <= largest / 4,
                      "deform_kernel2d: the scope of weight is (", g.scope_height, ", ",
                      g.scope_width, "), which is too large for a GPU; use the CPU");
  }

  ScopeSamples samples() const {
    return {scope_, offset_, arguments_.kernel_size, call_.geometry.in_channels};
  }
  std::vector<int64_t> offset_sizes() const { return {offset_.size(0), offset_.size(1), 1, 1}; }

  const Arguments& arguments_;
  at::ScalarType dtype_;
  Call call_;
  at::Tensor scope_, offset_;
};

// The convolution that a call is which deforms nothing: with kernels of their own, images are
// groups of one.
class Convolution {
 public:
  Convolution(const Call& call, const Arguments& a)
      : a_(a),
        images_(call.weights_per_image() ? call.geometry.batch : 1),
        groups_(images_ * call.geometry.groups),
        kernels_(call.weight.to(a.input.scalar_type()).flatten(0, 1)) {}

  at::Tensor forward(const Geometry<int64_t>& g) const {
    const bool shared = images_ == 1;
    at::Tensor result =
        at::convolution(together(a_.input), kernels_, shared ? a_.bias : OptionalTensor(),
                        a_.stride, a_.padding, a_.dilation, false, {0, 0}, groups_);
    if (!shared) {
      result = result.reshape({g.batch, g.out_channels, g.out_height, g.out_width});
      if (a_.bias.has_value()) result = result + a_.bias->view({-1, 1, 1});
    }
    return result.contiguous(a_.input.suggest_memory_format());
  }

  // Of the input and the kernels.
  CallGradients backward(const at::Tensor& grad_output, const Wanted& wanted,
                         const Call& call) const {
    CallGradients to;
    if (!wanted.input && !wanted.weight) return to;
    const auto [input, kernels, bias] = at::convolution_backward(
        together(grad_output), together(a_.input), kernels_, c10::nullopt, a_.stride, a_.padding,
        a_.dilation, false, {0, 0}, groups_, {wanted.input, wanted.weight, false});
    if (wanted.input) to.input = input.reshape(a_.input.sizes());
    if (wanted.weight) to.weight = kernels.view(call.weight.sizes());
    return to;
  }

 private:
  at::Tensor together(const at::Tensor& activation) const {
    if (images_ == 1) return activation;
    return activation.reshape({1, -1, activation.size(2), activation.size(3)});
  }

  const Arguments& a_;
  int64_t images_, groups_;
  at::Tensor kernels_;
};

// In the dtype of the argument and contiguous, as shape inference says; an empty batch's are zero.
at::Tensor finish_gradient(const at::Tensor& computed, bool wanted, const OptionalTensor& argument,
                           const at::Tensor& input) {
  if (!wanted || !argument.has_value()) return or_empty({}, input);
  if (computed.defined()) return computed.to(argument->scalar_type()).contiguous();
  return at::zeros(argument->sizes(), argument->options());
}

at::Tensor bias_gradient(const at::Tensor& grad_output) {
  return at::sum(grad_output, at::IntArrayRef{0, 2, 3}, /*keepdim=*/false,
                 at::toOpMathType(grad_output.scalar_type()));
}

}  // namespace

at::Tensor forward(const at::Tensor& input, const at::Tensor& weight,
                   const OptionalTensor& kernel_offset, const OptionalTensor& image_offset,
                   const OptionalTensor& mask, const OptionalTensor& bias,
                   at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation) {
  const Arguments a{input, weight,      kernel_offset, image_offset, mask,
                    bias,  kernel_size, stride,        padding,      dilation};
  const Geometry<int64_t> g = check_arguments<int64_t>(a);
  const c10::cuda::CUDAGuard guard(input.device());
  // What autocast wanted of the arguments has been done; products here keep their dtype.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      c10::DispatchKeySet(c10::DispatchKey::AutocastCUDA));
  const auto make_output = [&] {
    return at::empty({g.batch, g.out_channels, g.out_height, g.out_width}, options_like(input));
  };
  if (g.batch == 0) return make_output();
  const PreparedCall prepared(a, g);
  if (prepared.is_convolution()) return Convolution(prepared.call(), a).forward(g);
  const at::Tensor output = make_output();
  if (g.depthwise()) {
    depthwise_forward(prepared.call(), output);
  } else {
    dense_forward(prepared.call(), output);
  }
  return output;
}

operators::Six backward(const at::Tensor& grad_output, const at::Tensor& input,
                        const at::Tensor& weight, const OptionalTensor& kernel_offset,
                        const OptionalTensor& image_offset, const OptionalTensor& mask,
                        const OptionalTensor& bias, at::IntArrayRef kernel_size,
                        at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                        std::array<bool, 6> output_mask) {
  const Arguments a{input, weight,      kernel_offset, image_offset, mask,
                    bias,  kernel_size, stride,        padding,      dilation};
  const Geometry<int64_t> g = check_arguments<int64_t>(a);
  check_grad_output(grad_output, a, g);
  const c10::cuda::CUDAGuard guard(input.device());
  // What autocast wanted of the arguments has been done; products here keep their dtype.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      c10::DispatchKeySet(c10::DispatchKey::AutocastCUDA));
  CallGradients to;
  at::Tensor grad_bias;
  if (g.batch > 0) {
    const PreparedCall prepared(a, g);
    const bool kernel = output_mask[2] && kernel_offset.has_value();
    const Wanted wanted{output_mask[0], output_mask[1] || (kernel && prepared.is_sampled()),
                        kernel && !prepared.is_sampled(),
                        output_mask[3] && image_offset.has_value(),
                        output_mask[4] && mask.has_value()};
    if (prepared.is_convolution()) {
      to = Convolution(prepared.call(), a).backward(grad_output, wanted, prepared.call());
    } else if (g.depthwise()) {
      to = depthwise_backward(prepared.call(), grad_output, wanted);
    } else {
      to = dense_backward(prepared.call(), grad_output, wanted);
    }
    prepared.finish(to, output_mask[1], kernel);
    if (output_mask[5] && bias.has_value()) grad_bias = bias_gradient(grad_output);
    if (to.input.defined()) {
      to.input = to.input.to(input.scalar_type()).contiguous(input.suggest_memory_format());
    }
  } else if (output_mask[0]) {
    to.input = at::empty(input.sizes(), options_like(input));
  }
  return {or_empty(to.input, input),
          finish_gradient(to.weight, output_mask[1], weight, input),
          finish_gradient(to.kernel_offset, output_mask[2], kernel_offset, input),
          finish_gradient(to.image_offset, output_mask[3], image_offset, input),
          finish_gradient(to.mask, output_mask[4], mask, input),
          finish_gradient(grad_bias, output_mask[5], bias, input)};
}

}  // namespace mmdk::cuda
