// Dense and grouped calls on a GPU: columns of resampled data, a bounded number at a time, and
// matrix products.
#pragma once

#include "cuda/call.h"

namespace mmdk::cuda {

void dense_forward(const Call& call, const at::Tensor& output);

CallGradients dense_backward(const Call& call, const at::Tensor& grad_output, const Wanted& wanted);

}  // namespace mmdk::cuda
