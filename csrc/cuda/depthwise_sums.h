// Depthwise sums over taps: from inputs to outputs, or back.
#pragma once

#include "cuda/call.h"

namespace mmdk::cuda {

// `sums` from `data`, tensors of one dtype and layout: outputs from inputs, or, when `transposed`,
// what arrives at inputs from the gradient of outputs (Look::kScope only).
struct SumsRequest {
  const at::Tensor& data;
  const at::Tensor& sums;
  at::Tensor bias;
  bool transposed = false;
};

// Of channels_last tensors.
void sum_channels_innermost(const Call& call, const SumsRequest& request);

// Of contiguous tensors; Look::kScope only.
void sum_planes(const Call& call, const SumsRequest& request);

// Depthwise weights (images, C, 1, S_h, S_w) as kernels read them, (images, cells, C): with a
// border of zeros where they are scopes.
at::Tensor pack_rows(const at::Tensor& weight, bool bordered);

// Their gradient (images, cells, C) in the shape of the weights.
at::Tensor unpack_rows(const at::Tensor& rows, const at::Tensor& weight, bool bordered);

}  // namespace mmdk::cuda
