// The few input rows that a row of outputs reads, or adds to, as (chunks, pixels, kChunk).
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/depthwise.h"
#include "cpu/simd/kernels.h"

namespace mmdk::cpu {

template <typename T>
simd::PixelRow<T> pixel_row(const Activation& activation, int64_t image, int64_t y, int64_t x,
                            int64_t pixels) {
  const at::Tensor& tensor = activation.tensor;
  const int64_t channels = tensor.size(1), height = tensor.size(2), width = tensor.size(3);
  T* data = static_cast<T*>(tensor.data_ptr());
  if (activation.channels_last) {
    return {data + ((image * height + y) * width + x) * channels, pixels, channels, channels, 1};
  }
  return {data + (image * channels * height + y) * width + x, pixels, channels, 1, height * width};
}

// Columns [left, left + pixels) of one image; columns outside it are padding.
struct Columns {
  int64_t image, left, pixels;
};

template <typename T>
class RowRing {
 public:
  // Holds `rows` neighbouring rows of at most `pixels` columns.
  RowRing(int64_t rows, int64_t chunks, int64_t pixels)
      : chunks_(chunks),
        stride_(pixels * simd::kChunk),
        held_(rows, kNone),
        outside_(stride_),
        data_(rows * chunks * stride_) {}

  // Starts on other columns; nothing is held.
  void move_to(const Columns& columns) {
    columns_ = columns;
    std::fill(held_.begin(), held_.end(), kNone);
  }

  // Row y for reading, all chunks loaded: zeros where it is outside the image.
  const T* read(const Activation& from, int64_t y, int64_t chunk) {
    if (is_outside(from, y)) return outside_.data();
    int64_t& held = held_[y % rows()];
    if (held != y) {
      held = y;
      load(from, y);
    }
    return slot(y, chunk);
  }

  // Row y for adding to; what another row left in its place goes to `to` first. Rows outside the
  // image share a place whose contents mean nothing.
  T* add(const Activation& to, int64_t y, int64_t chunk) {
    if (is_outside(to, y)) return outside_.data();
    int64_t& held = held_[y % rows()];
    if (held != y) {
      flush(to, held);
      held = y;
      std::fill_n(slot(y, 0), chunks_ * stride_, T(0));
    }
    return slot(y, chunk);
  }

  void flush_all(const Activation& to) {
    for (int64_t& held : held_) {
      flush(to, held);
      held = kNone;
    }
  }

 private:
  static constexpr int64_t kNone = -1;

  int64_t rows() const { return static_cast<int64_t>(held_.size()); }
  T* slot(int64_t y, int64_t chunk) {
    return data_.data() + (y % rows() * chunks_ + chunk) * stride_;
  }
  static bool is_outside(const Activation& image, int64_t y) {
    return y < 0 || y >= image.tensor.size(2);
  }
  // The columns inside the image, counted from `left`.
  int64_t first() const { return std::clamp<int64_t>(-columns_.left, 0, columns_.pixels); }
  int64_t last(const Activation& image) const {
    return std::clamp<int64_t>(image.tensor.size(3) - columns_.left, first(), columns_.pixels);
  }

  // Channels missing in the last chunk stay the zeros the buffer began with; columns outside the
  // image differ from strip to strip.
  void load(const Activation& from, int64_t y) {
    const int64_t begin = first(), end = last(from);
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      T* to = slot(y, chunk);
      std::fill(to, to + begin * simd::kChunk, T(0));
      std::fill(to + end * simd::kChunk, to + columns_.pixels * simd::kChunk, T(0));
    }
    if (begin == end) return;
    kernels_.load_row(
        slot(y, 0) + begin * simd::kChunk, stride_,
        pixel_row<const T>(from, columns_.image, y, columns_.left + begin, end - begin));
  }

  void flush(const Activation& to, int64_t y) {
    const int64_t begin = first(), end = last(to);
    if (y == kNone || begin == end) return;
    kernels_.add_row(pixel_row<T>(to, columns_.image, y, columns_.left + begin, end - begin),
                     slot(y, 0) + begin * simd::kChunk, stride_);
  }

  const simd::Kernels<T>& kernels_ = simd::kernels<T>();
  Columns columns_{0, 0, 0};
  int64_t chunks_, stride_;
  std::vector<int64_t> held_;
  AlignedBuffer<T> outside_, data_;
};

}  // namespace mmdk::cpu
