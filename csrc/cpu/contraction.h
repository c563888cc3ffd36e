// Products of a tile of sampled data Z (pixels, cells, width) with the packed weight of a block:
// matrix products, or channel by channel when depthwise. Tiles of outputs are (pixels, C_out) rows.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/blocks.h"

namespace mmdk::cpu {

template <typename T>
class Contraction {
 public:
  explicit Contraction(const Geometry<int64_t>& geometry) : geometry_(geometry) {}

  // output += Z . W
  void forward(const Block& block, const at::Tensor& weight, T* z, int64_t pixels, T* output) const;
  // grad_z = grad_output . W^T
  void backward_data(const Block& block, const at::Tensor& weight, const T* grad_output,
                     int64_t pixels, T* grad_z) const;
  // grad_weight += Z^T . grad_output
  void backward_weight(const Block& block, T* z, const T* grad_output, int64_t pixels,
                       at::Tensor& grad_weight) const;

 private:
  // The columns of a block's convolution group in (pixels, C_out) rows.
  at::Tensor group_columns(const Block& block, const T* rows, int64_t pixels) const;
  at::Tensor tile(const Block& block, T* z, int64_t pixels) const;

  const Geometry<int64_t>& geometry_;
};

}  // namespace mmdk::cpu
