// Depthwise calls on a GPU.
#pragma once

#include "cuda/call.h"

namespace mmdk::cuda {

// Writes `output`, of the input's dtype, contiguous or channels_last.
void depthwise_forward(const Call& call, const at::Tensor& output);

CallGradients depthwise_backward(const Call& call, const at::Tensor& grad_output,
                                 const Wanted& wanted);

}  // namespace mmdk::cuda
