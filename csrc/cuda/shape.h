// What kernels are told about a call: plain structures, passed by value. Pixels of an image are
// numbered row by row.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "common/bilinear.h"
#include "common/geometry.h"

namespace mmdk::cuda {

// Pairs are (y, x); names and units are those of mmdk.ops.deform_kernel2d.
struct Shape {
  int64_t batch, channels;
  int64_t size[2], out_size[2];
  int64_t stride[2], padding[2], dilation[2];
  int kernel[2], scope[2];

  explicit Shape(const Geometry<int64_t>& g)
      : batch(g.batch),
        channels(g.in_channels),
        size{g.height, g.width},
        out_size{g.out_height, g.out_width},
        stride{g.stride[0], g.stride[1]},
        padding{g.padding[0], g.padding[1]},
        dilation{g.dilation[0], g.dilation[1]},
        kernel{static_cast<int>(g.kernel[0]), static_cast<int>(g.kernel[1])},
        scope{static_cast<int>(g.scope_height), static_cast<int>(g.scope_width)} {}

  MMDK_HOST_DEVICE int taps() const { return kernel[0] * kernel[1]; }
  MMDK_HOST_DEVICE int64_t out_pixels() const { return out_size[0] * out_size[1]; }
  MMDK_HOST_DEVICE int cells() const { return scope[0] * scope[1]; }
  // The scope with a border of one cell: there all four cells of a look-up exist.
  MMDK_HOST_DEVICE int bordered_width() const { return scope[1] + 2; }
  MMDK_HOST_DEVICE int bordered_cells() const { return (scope[0] + 2) * bordered_width(); }
};

// A tensor (N, C, H, W) with strides in numbers, not bytes; its rows follow upon each other.
template <typename T>
struct View {
  T* data = nullptr;
  int64_t image = 0, channel = 0, pixel = 0;

  View() = default;
  explicit View(const at::Tensor& tensor)
      : data(static_cast<T*>(tensor.data_ptr())),
        image(tensor.stride(0)),
        channel(tensor.stride(1)),
        // A dimension of size one may have any stride.
        pixel(tensor.size(3) > 1 ? tensor.stride(3) : tensor.stride(2)) {}
};

enum class Storage : int { kAbsent, kAccumulation, kHalf, kBFloat16 };

inline Storage storage_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kHalf) return Storage::kHalf;
  if (tensor.scalar_type() == at::kBFloat16) return Storage::kBFloat16;
  return Storage::kAccumulation;
}

// kernel_offset, image_offset or mask of every pixel, in a dtype of its own.
struct Offsets {
  Storage storage = Storage::kAbsent;
  View<const void> view;

  Offsets() = default;
  explicit Offsets(const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    storage = storage_of(tensor);
    view = View<const void>(tensor);
  }
};

// 64-bit division takes the hardware a hundred instructions; numbers are rarely that large.
MMDK_HOST_DEVICE int64_t divide(int64_t number, int64_t by) {
  if (((number | by) >> 32) == 0) {
    return static_cast<uint32_t>(number) / static_cast<uint32_t>(by);
  }
  return number / by;
}

}  // namespace mmdk::cuda
