// One call of the operator, as the CUDA kernels work on it, and how it is shared out.
#pragma once

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>

#include <initializer_list>

#include "common/geometry.h"
#include "cuda/channels.cuh"
#include "cuda/plan.cuh"

namespace mmdk::cuda {

// Tensors are undefined where absent. `geometry` has the scope of `weight`.
struct Call {
  Geometry<int64_t> geometry;
  Look look;
  at::Tensor input;  // contiguous or channels_last
  // (1 or N, C_out, C_in/groups, S_h, S_w) in accumulation precision; kernels where the scope is
  // not looked up, and kernels that kernel_offset is absent for where it need not have been.
  at::Tensor weight;
  at::Tensor kernel_offset, image_offset, mask;
  at::Tensor bias;  // in accumulation precision

  bool weights_per_image() const { return weight.size(0) > 1; }
  int64_t step_of_weights() const { return weights_per_image() ? weight[0].numel() : 0; }
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

// Whether vectors of N channels lie at multiples of their size.
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
    const auto taps_that_fit = [&](int64_t budget) -> int64_t {
      if (bytes.per_entry == 0) return bytes.fixed <= budget ? taps : 0;
      return (budget - bytes.fixed) / (bytes.per_entry * tile);
    };
    while (tile > block.rows && taps_that_fit(device.shared_bytes) < taps) {
      tile = std::max(tile / 2 / block.rows, 1) * block.rows;
    }
    const int64_t most = taps_that_fit(device.shared_bytes);
    if (most >= 1) {
      const int64_t few = std::max<int64_t>(taps_that_fit(kSharedBytesOfAnyDevice), 1);
      // A whole plan is worth a block of more than the usual size; parts of one are not.
      const int capacity = static_cast<int>(most >= taps ? taps : std::min<int64_t>(few, most));
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
