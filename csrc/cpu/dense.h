// Dense and grouped kernels: the data are resampled instead of the kernels, tile by tile of pixels,
//
//   Z[p, c, s] = sum_k m_k(p) * B_{k,s}(p) * x_k[c](p)
//
// where x_k is the input at tap k's image coordinate and B the bilinear weight of scope cell s at
// tap k's scope coordinate. The output is then the matrix product Z . W: no kernel is ever formed
// per position, and no tile is larger than a cache.
#pragma once

#include "cpu/activation.h"
#include "cpu/call.h"

namespace mmdk::cpu {

template <typename T>
void dense_forward(const Call& call, const at::Tensor& output);

// Gradients but that of the bias.
template <typename T>
void dense_backward(const Call& call, const Activation& grad_output, const Gradients& to);

}  // namespace mmdk::cpu
