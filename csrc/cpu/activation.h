// Activations as the CPU kernels read and write them: in the dtype and the strides they have. Only
// a few rows at a time are held otherwise.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/simd/kernels.h"

namespace mmdk::cpu {

// A tensor (N, C, H, W).
class Activation {
 public:
  explicit Activation(const at::Tensor& tensor)
      : data_(static_cast<char*>(tensor.data_ptr())),
        number_size_(static_cast<int64_t>(tensor.element_size())),
        storage_(storage_of(tensor.scalar_type())),
        channels_(tensor.size(1)),
        height_(tensor.size(2)),
        width_(tensor.size(3)),
        strides_{tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)} {}

  int64_t channels() const { return channels_; }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }

  // Pixels and channels from this one on.
  simd::Numbers<void> at(int64_t image, int64_t channel, int64_t y, int64_t x) const {
    const int64_t first =
        image * strides_[0] + channel * strides_[1] + y * strides_[2] + x * strides_[3];
    return {data_ + first * number_size_, storage_, strides_[3], strides_[1]};
  }

  // Asks for (pixels, channels) to be brought near.
  void prefetch(int64_t image, int64_t channel, int64_t y, int64_t x, int64_t pixels,
                int64_t channels) const {
    constexpr int64_t line = 64;
    const auto from = at(image, channel, y, x);
    const bool by_pixels = from.channel_stride == 1;
    const int64_t rows = by_pixels ? pixels : channels, columns = by_pixels ? channels : pixels;
    const int64_t step = (by_pixels ? from.pixel_stride : from.channel_stride) * number_size_;
    for (int64_t row = 0; row < rows; ++row) {
      const char* first = static_cast<const char*>(from.data) + row * step;
      for (int64_t at = 0; at < columns * number_size_; at += line) {
        __builtin_prefetch(first + at, 0, 2);
      }
    }
  }

  // (pixels, channels) into a buffer, and back. T is the accumulation type of the tensor's dtype.
  template <typename T>
  void load(int64_t image, int64_t channel, int64_t y, int64_t x, int64_t pixels, int64_t channels,
            T* to, int64_t pixel_stride, int64_t channel_stride) const {
    const auto from = at(image, channel, y, x);
    simd::kernels<T>().load(to, pixel_stride, channel_stride,
                            {from.data, from.storage, from.pixel_stride, from.channel_stride},
                            pixels, channels);
  }
  template <typename T>
  void store(int64_t image, int64_t channel, int64_t y, int64_t x, int64_t pixels, int64_t channels,
             const T* from, int64_t pixel_stride, int64_t channel_stride) const {
    simd::kernels<T>().store(at(image, channel, y, x), from, pixel_stride, channel_stride, pixels,
                             channels);
  }

 private:
  static simd::Storage storage_of(at::ScalarType dtype) {
    if (dtype == at::kHalf) return simd::Storage::kHalf;
    if (dtype == at::kBFloat16) return simd::Storage::kBFloat16;
    return simd::Storage::kSame;
  }

  char* data_;
  int64_t number_size_;
  simd::Storage storage_;
  int64_t channels_, height_, width_;
  int64_t strides_[4];
};

}  // namespace mmdk::cpu
