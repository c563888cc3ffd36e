// Depthwise deformable kernels without image offsets or mask: one fused pass over rows of pixels,
// chunks of channels innermost. Activations are read and written in the layout they have; only a
// few rows at a time are held in another.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/geometry.h"

namespace mmdk::cpu {

// An activation (N, C, H, W) that is contiguous or channels_last.
struct Activation {
  at::Tensor tensor;
  bool channels_last;

  explicit Activation(const at::Tensor& dense)
      : tensor(dense), channels_last(dense.is_contiguous(at::MemoryFormat::ChannelsLast)) {}
};

// The tensors of one call, in one accumulation dtype, contiguous but for the activations.
struct DepthwiseOperands {
  Activation input;
  at::Tensor weight;         // (C, 1, S_h, S_w)
  at::Tensor kernel_offset;  // undefined when absent
  at::Tensor bias;           // undefined when absent
};

// Gradients to compute, all zero beforehand; undefined where not wanted. kernel_offset is per
// position: (N, channels, H_out, W_out).
struct DepthwiseTargets {
  at::Tensor input, weight, kernel_offset;
};

// Whether this way covers a call; sweeps.h covers all.
bool is_fused_depthwise(const Geometry<int64_t>& geometry, bool has_image_offset, bool has_mask);

// Writes output (N, C, H_out, W_out), contiguous or channels_last.
template <typename T>
void depthwise_forward(const DepthwiseOperands& operands, const Geometry<int64_t>& geometry,
                       const Activation& output);

template <typename T>
void depthwise_backward(const DepthwiseOperands& operands, const Geometry<int64_t>& geometry,
                        const Activation& grad_output, DepthwiseTargets& targets);

}  // namespace mmdk::cpu
