// Kernels sampled from scopes, one for each image.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace mmdk::cpu {

// All tensors are contiguous and of one accumulation dtype. A row is one pair of output and input
// channels; rows of one offset group share offsets.
class ScopeSampler {
 public:
  // weight (C_out, C_in/groups, S_h, S_w), offset (N, offset groups * K_h*K_w*2); channels_in is
  // C_in.
  ScopeSampler(const at::Tensor& weight, const at::Tensor& offset, at::IntArrayRef kernel_size,
               int64_t channels_in);

  // (N, C_out, C_in/groups, K_h, K_w)
  at::Tensor sample() const;

  // Gradients of weight and offset by that of the kernels; undefined where not wanted.
  struct Gradients {
    at::Tensor weight, offset;
  };
  Gradients backward(const at::Tensor& grad_kernels, bool weight, bool offset) const;

 private:
  template <typename T, typename F>
  void for_each_look_up(int64_t begin, int64_t end, const F& f) const;
  template <typename T>
  void add_offset_gradient(const at::Tensor& grad, const at::Tensor& to) const;
  template <typename T>
  void add_weight_gradient(const at::Tensor& grad, const at::Tensor& to) const;

  at::Tensor weight_, offset_;
  int64_t kernel_height_, kernel_width_;
  int64_t offset_groups_;
  std::vector<int64_t> first_row_;  // of each offset group, and the end
  at::Tensor order_;                // rows by offset groups
  at::Tensor scope_;                // (cells, rows in that order)
};

}  // namespace mmdk::cpu
