// The passes over all pixels of a call. Each is cut into tasks by the geometry alone, every task
// sums in a fixed order and no two tasks that run at once write to one place: the result does not
// depend on the number of threads.
#pragma once

#include <vector>

#include "cpu/sampled_tile.h"

namespace mmdk::cpu {

// One call: operands, geometry, channel blocks and the weight packed for each of them.
template <typename T>
struct Call {
  Operands<T> operands;
  Geometry<int64_t> geometry;
  std::vector<Block> blocks;
  std::vector<at::Tensor> weights;
};

// output (N, H_out, W_out, C_out) += the operator without its bias.
template <typename T>
void sweep_forward(const Call<T>& call, T* output);

// Adds the gradients of input, offsets and mask; grad_output is (N, H_out, W_out, C_out).
template <typename T>
void sweep_backward_data(const Call<T>& call, const T* grad_output, const GradTargets<T>& targets);

// The packed gradient of each block's weight.
template <typename T>
std::vector<at::Tensor> sweep_backward_weight(const Call<T>& call, const T* grad_output);

// The gradient of the bias, (C_out,), in the dtype T of grad_output.
template <typename T>
at::Tensor sweep_backward_bias(const Geometry<int64_t>& geometry, const at::Tensor& grad_output);

}  // namespace mmdk::cpu
