// The shape of one call: everything about it that is not data.
#pragma once

#include <array>
#include <cstdint>

namespace mmdk {

using Pair = std::array<int64_t, 2>;  // height, width

// Sizes that come from a tensor are `Int`: int64_t in the kernels, c10::SymInt when only shapes are
// computed. Names and units are those of mmdk.ops.deform_kernel2d.
template <typename Int>
struct Geometry {
  Int batch, in_channels, height, width;
  Int out_channels, out_height, out_width;
  Int group_channels, groups;  // in_channels = groups * group_channels
  Int scope_height, scope_width;
  Int kernel_offset_groups = 1;
  Int image_offset_groups = 1;  // of image_offset and mask
  Pair kernel, stride, padding, dilation;

  int64_t taps() const { return kernel[0] * kernel[1]; }
  Int cells() const { return scope_height * scope_width; }
  Int pixels() const { return out_height * out_width; }
  bool depthwise() const { return groups == in_channels && out_channels == in_channels; }
};

}  // namespace mmdk
