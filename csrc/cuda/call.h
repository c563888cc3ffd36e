// One call of the operator, as the CUDA kernels work on it, and how it is shared out.
#pragma once

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "common/geometry.h"
#include "cuda/channels.cuh"
#include "cuda/plan.cuh"

namespace mmdk::cuda {

// Tensors are undefined where absent. `geometry` has the scope of `weight`.
struct Call {
  Geometry<int64_t> geometry;
  Look look;
  at::Tensor input;  // contiguous or channels_last
  // (1 or N, C_out, C_in/groups, S_h, S_w) in accumulation precision. Where kernel_offset is
  // absent, these are kernels; Look::kScope then finds each tap at a whole cell.
  at::Tensor weight;
  at::Tensor kernel_offset, image_offset, mask;
  at::Tensor bias;  // in accumulation precision

  bool weights_per_image() const { return weight.size(0) > 1; }
  Tapping tapping() const {
    return {Shape(geometry), Offsets(kernel_offset), Offsets(image_offset), Offsets(mask)};
  }
  PixelGrid inputs() const { return PixelGrid::whole(geometry.batch, Shape(geometry).size); }
  PixelGrid outputs() const { return PixelGrid::whole(geometry.batch, Shape(geometry).out_size); }
};

// Gradients in accumulation precision, undefined where not wanted; `input` may be in the input's
// dtype.
struct CallGradients {
  at::Tensor input, weight, kernel_offset, image_offset, mask;
};

struct Wanted {
  bool input, weight, kernel_offset, image_offset, mask;

  bool taps() const { return kernel_offset || image_offset || mask; }
};

// Activations, channels innermost.
inline at::Tensor channels_innermost(const at::Tensor& tensor) {
  return tensor.contiguous(at::MemoryFormat::ChannelsLast);
}

inline Source source_of(const PixelGrid& grid, int64_t pixel) {
  return {grid, grid.pixels * pixel, pixel};
}

// From one image's weights to the next's, or 0 where all share one.
inline int64_t step_of_images(const at::Tensor& weights) {
  return weights.size(0) > 1 ? weights.stride(0) : 0;
}

// Calls f with `look` as a constant of the compiler's.
template <typename F>
void with_look(Look look, const F& f) {
  if (look == Look::kScope) {
    f(std::integral_constant<Look, Look::kScope>());
  } else if (look == Look::kScopeAndImage) {
    f(std::integral_constant<Look, Look::kScopeAndImage>());
  } else {
    f(std::integral_constant<Look, Look::kImage>());
  }
}

// Whether vectors of N channels of these tensors lie at multiples of their size. What is made for a
// call, weights among it, always does.
template <typename T, int N>
bool vectors_fit(const Geometry<int64_t>& g, std::initializer_list<const at::Tensor*> tensors) {
  if (g.in_channels % (g.kernel_offset_groups * N) != 0 ||
      g.in_channels % (g.image_offset_groups * N) != 0) {
    return false;
  }
  for (const at::Tensor* tensor : tensors) {
    if (reinterpret_cast<uintptr_t>(tensor->data_ptr()) % (sizeof(T) * N) != 0) return false;
  }
  return true;
}

// How a kernel is launched: threads, shared memory and how many taps it plans at a time.
struct Launch {
  ChannelBlocks channels;
  int tile, capacity;
  int64_t shared_bytes;
};

// Sizes of what blocks of such threads keep in shared memory.
struct SharedBytes {
  int64_t fixed;      // whatever the tile
  int64_t per_entry;  // of one tap at one pixel
};

// The least a block needs has to be there.
inline void check_scope_fits(const Geometry<int64_t>& g, const Device& device, int64_t bytes) {
  TORCH_CHECK_VALUE(bytes <= device.shared_bytes, "deform_kernel2d: the scope of weight, (",
                    g.scope_height, ", ", g.scope_width, "), does not fit into the ",
                    device.shared_bytes,
                    " bytes of shared memory of a block on this GPU; use a smaller scope, or the "
                    "CPU");
}

// What a block may take that needs `least`: no more than other blocks leave room for, if possible.
inline int64_t usual_bytes(int64_t least, const Device& device) {
  return least <= kSharedBytesOfAnyDevice ? kSharedBytesOfAnyDevice : device.shared_bytes;
}

// As many channels for a block, then as many planned taps as its shared memory has room for.
// `bytes_of` says what a block of such threads needs; tiles have `pixels` for each row of threads,
// and at least `least`, while all taps fit.
template <typename BytesOf>
Launch plan_launch(const Geometry<int64_t>& g, const Device& device, int vector, int most_lanes,
                   int pixels, int least, const BytesOf& bytes_of) {
  const int taps = static_cast<int>(g.taps());
  for (int lanes = most_lanes, threads = kThreads;;) {
    const ChannelBlocks channels(g, vector, std::min(lanes, threads), threads);
    const Threads block = channels.threads();
    const SharedBytes bytes = bytes_of(block);
    int tile = std::max(block.rows * pixels, least);
    const int64_t room = usual_bytes(bytes.fixed + bytes.per_entry * block.rows, device);
    const auto taps_that_fit = [&]() -> int64_t {
      if (bytes.per_entry == 0) return bytes.fixed <= room ? taps : 0;
      return (room - bytes.fixed) / (bytes.per_entry * tile);
    };
    // What kernels rely on: all taps, or one pixel for each row of threads.
    while (tile > block.rows && taps_that_fit() < taps) {
      tile = std::max(tile / 2 / block.rows, 1) * block.rows;
    }
    if (taps_that_fit() >= 1) {
      const int capacity = static_cast<int>(std::min<int64_t>(taps_that_fit(), taps));
      TORCH_INTERNAL_ASSERT(tile % block.rows == 0 && block.rows * block.lanes >= kWarp);
      return {channels, tile, capacity, bytes.fixed + bytes.per_entry * tile * capacity};
    }
    if (threads > kWarp) {
      threads /= 2;
    } else if (lanes > 1) {
      lanes /= 2;
    } else {
      check_scope_fits(g, device, bytes.fixed + bytes.per_entry * tile);
    }
  }
}

}  // namespace mmdk::cuda
