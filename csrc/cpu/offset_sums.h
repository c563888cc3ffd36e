// The gradient of kernel_offset while parts of the channels that share offsets are worked on at
// once: each has a sum of its own.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "cpu/call.h"

namespace mmdk::cpu {

class OffsetSums {
 public:
  // `gradient`: of kernel_offset, all zero; undefined when not wanted.
  OffsetSums(const Call& call, const std::vector<Part>& parts, const at::Tensor& gradient)
      : first_part_(call.geometry.kernel_offset_groups, -1) {
    if (!gradient.defined()) return;
    sums_.push_back(gradient);
    for (int64_t part = 0; part < static_cast<int64_t>(parts.size()); ++part) {
      for (int64_t i = parts[part].begin; i < parts[part].end; ++i) {
        int64_t& first = first_part_[call.chunks[i].kernel_offset_group];
        if (first < 0) first = part;
        while (static_cast<int64_t>(sums_.size()) <= part - first) {
          sums_.push_back(at::zeros_like(gradient));
        }
      }
    }
  }

  // What a chunk of a part adds to.
  at::Tensor of(int64_t part, const Chunk& chunk) const {
    return sums_.empty() ? at::Tensor() : sums_[part - first_part_[chunk.kernel_offset_group]];
  }

  void join() const {
    for (size_t i = 1; i < sums_.size(); ++i) at::Tensor(sums_[0]).add_(sums_[i]);
  }

 private:
  std::vector<int64_t> first_part_;
  std::vector<at::Tensor> sums_;
};

}  // namespace mmdk::cpu
