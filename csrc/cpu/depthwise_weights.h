// The weights of depthwise kernels by chunks, channels innermost.
#pragma once

#include <ATen/ATen.h>

#include "cpu/call.h"
#include "cpu/simd/kernels.h"

namespace mmdk::cpu {

// Where cells of a weight lie in (cells, kChunk): scopes that are looked up have a border of zeros.
class PackedLayout {
 public:
  explicit PackedLayout(const Call& call)
      : chunks_(call.chunks),
        height_(call.weight.size(3)),
        width_(call.weight.size(4)),
        border_(call.is_rigid() ? 0 : 1) {}

  int64_t bordered_width() const { return width_ + 2 * border_; }
  int64_t chunk_size() const { return (height_ + 2 * border_) * bordered_width() * simd::kChunk; }
  int64_t size() const { return static_cast<int64_t>(chunks_.size()) * chunk_size(); }

  // Calls f(number in (C, S_h, S_w), number in (chunks, cells, kChunk)) for all of one weight.
  template <typename F>
  void for_each_number(const F& f) const {
    for (int64_t i = 0; i < static_cast<int64_t>(chunks_.size()); ++i) {
      for (int64_t c = 0; c < chunks_[i].width; ++c) {
        for (int64_t cell = 0; cell < height_ * width_; ++cell) {
          const int64_t row = cell / width_ + border_, column = cell % width_ + border_;
          f((chunks_[i].begin + c) * height_ * width_ + cell,
            i * chunk_size() + (row * bordered_width() + column) * simd::kChunk + c);
        }
      }
    }
  }

 private:
  const std::vector<Chunk>& chunks_;
  int64_t height_, width_, border_;
};

// (weights, chunks, cells, kChunk)
template <typename T>
at::Tensor pack(const at::Tensor& weight, const PackedLayout& layout) {
  at::Tensor packed = at::zeros({weight.size(0), layout.size()}, weight.options());
  const int64_t size = weight[0].numel();
  for (int64_t n = 0; n < weight.size(0); ++n) {
    const T* from = weight.const_data_ptr<T>() + n * size;
    T* to = packed.data_ptr<T>() + n * layout.size();
    layout.for_each_number([&](int64_t plain, int64_t place) { to[place] = from[plain]; });
  }
  return packed;
}

// Writes to weight, like pack()'s.
template <typename T>
void unpack(const at::Tensor& packed, const PackedLayout& layout, const at::Tensor& weight) {
  const int64_t size = weight[0].numel();
  for (int64_t n = 0; n < weight.size(0); ++n) {
    const T* from = packed.const_data_ptr<T>() + n * layout.size();
    T* to = static_cast<T*>(weight.data_ptr()) + n * size;
    layout.for_each_number([&](int64_t plain, int64_t place) { to[plain] = from[place]; });
  }
}

}  // namespace mmdk::cpu
