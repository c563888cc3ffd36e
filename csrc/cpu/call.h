// One call of the operator, as the CPU kernels work on it.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "common/geometry.h"
#include "cpu/channels.h"

namespace mmdk::cpu {

// Tensors in accumulation precision and contiguous, but for `input`, which is as it came; undefined
// where absent.
struct Call {
  Geometry<int64_t> geometry;
  at::Tensor input;
  // Scopes (1, C_out, C_in/groups, S_h, S_w) that are looked up at each position with
  // kernel_offset; or else kernels of the kernel's size, which are not: one, or one per image.
  at::Tensor weight;
  at::Tensor kernel_offset;  // (N, channels, H_out, W_out)
  at::Tensor image_offset, mask, bias;
  std::vector<Chunk> chunks;

  bool is_rigid() const { return !kernel_offset.defined(); }
  bool samples_image() const { return image_offset.defined() || mask.defined(); }
  int64_t cells() const { return weight.size(3) * weight.size(4); }
  // Of the weights, for image n.
  int64_t weight_of(int64_t image) const { return weight.size(0) == 1 ? 0 : image; }
};

// Where gradients go, all zero beforehand; undefined where not wanted. `input` is in the dtype of
// the call's, the others in accumulation precision and of their arguments' shape.
struct Gradients {
  at::Tensor input, weight, kernel_offset, image_offset, mask, bias;
};

template <typename T>
T* data(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Data of a tensor that may be undefined.
template <typename T>
T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? data<T>(tensor) : nullptr;
}

}  // namespace mmdk::cpu
