#include "cuda/depthwise.h"

#include "cuda/depthwise_sums.h"
#include "cuda/input_gradient_pass.cuh"
#include "cuda/tap_gradients_pass.cuh"

namespace mmdk::cuda {
namespace {

// Planes of contiguous tensors are summed as they lie, but not between pixels: there neighbouring
// threads would read far apart.
bool by_planes(const Call& call) {
  return call.look == Look::kScope && !call.input.is_contiguous(at::MemoryFormat::ChannelsLast);
}

template <typename T>
void other_gradients(const Call& call, const at::Tensor& grad_output, const Wanted& wanted,
                     CallGradients& to) {
  using A = at::opmath_type<T>;
  const Geometry<int64_t>& g = call.geometry;
  const at::Tensor grad = channels_innermost(grad_output), input = channels_innermost(call.input);
  const at::Tensor weights = pack_rows(call.weight, in_scope(call.look));
  const Gradients<T> gradients{static_cast<const T*>(grad.data_ptr()),
                               source_of(call.outputs(), g.in_channels),
                               static_cast<const A*>(weights.data_ptr()),
                               static_cast<int>(weights.size(1)),
                               step_of_images(weights),
                               0,
                               0};
  if (wanted.input) {
    const InputGradientPass<T, false> pass(
        call, vectors_fit<T, InputGradientPass<T, false>::kVector>(g, {&grad}));
    pass.run(call.outputs(), gradients);
    to.input = pass.finish();
  }
  if (wanted.weight || wanted.taps()) {
    const TapGradientsPass<T, false> pass(call, input, wanted, weights.size(1),
                                          vectors_fit<T, kNarrow<T>>(g, {&grad, &input}));
    pass.run(call.outputs(), gradients);
    pass.finish(to);
    if (to.weight.defined()) to.weight = unpack_rows(to.weight, call.weight, in_scope(call.look));
  }
}

}  // namespace

void depthwise_forward(const Call& call, const at::Tensor& output) {
  if (by_planes(call)) {
    sum_planes(call, {call.input, output, call.bias});
    return;
  }
  const at::Tensor input = channels_innermost(call.input);
  const bool in_place = output.is_contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor sums =
      in_place ? output
               : at::empty(output.sizes(),
                           output.options().memory_format(at::MemoryFormat::ChannelsLast));
  sum_channels_innermost(call, {input, sums, call.bias});
  if (!in_place) output.copy_(sums);
}

CallGradients depthwise_backward(const Call& call, const at::Tensor& grad_output,
                                 const Wanted& wanted) {
  CallGradients to;
  Wanted others = wanted;
  if (wanted.input && call.look == Look::kScope) {
    const auto format =
        by_planes(call) ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
    const at::Tensor grad = grad_output.contiguous(format);
    to.input = at::empty(call.input.sizes(), call.input.options().memory_format(format));
    const SumsRequest request{grad, to.input, {}, /*transposed=*/true};
    if (by_planes(call)) {
      sum_planes(call, request);
    } else {
      sum_channels_innermost(call, request);
    }
    others.input = false;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, call.input.scalar_type(), "deform_kernel2d_backward",
      [&] { other_gradients<scalar_t>(call, grad_output, others, to); });
  return to;
}

}  // namespace mmdk::cuda
