#include "cpu/blocks.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace mmdk::cpu {
namespace {

// Wide enough for a matrix product of 16 cells * 64 channels, narrow enough for its tile to stay in
// the L2 cache. The gradient of an input that is read through image offsets is shared out by
// blocks, so there should be several of them.
int64_t block_width(int64_t channels, bool shared_out) {
  return shared_out ? std::clamp<int64_t>((channels + 7) / 8, 16, 64) : 64;
}

std::vector<Segment> make_segments(int64_t begin, int64_t end, const Geometry<int64_t>& g) {
  const int64_t per_kernel_offset = g.in_channels / g.kernel_offset_groups;
  const int64_t per_image_offset = g.in_channels / g.image_offset_groups;
  std::vector<Segment> segments;
  for (int64_t channel = begin; channel < end;) {
    const int64_t kernel_group = channel / per_kernel_offset;
    const int64_t image_group = channel / per_image_offset;
    const int64_t next = std::min(
        {end, (kernel_group + 1) * per_kernel_offset, (image_group + 1) * per_image_offset});
    segments.push_back({channel - begin, next - begin, kernel_group, image_group});
    channel = next;
  }
  return segments;
}

// The view of a weight that a block owns: (outputs, width, cells), outputs = 1 when depthwise.
at::Tensor block_view(const at::Tensor& weight, const Block& block, const Geometry<int64_t>& g) {
  if (g.depthwise()) {
    return weight.view({1, g.in_channels, g.cells()}).narrow(1, block.begin, block.width());
  }
  const int64_t first = block.group * g.group_channels;
  return weight.view({g.groups, g.out_channels / g.groups, g.group_channels, g.cells()})
      .select(0, block.group)
      .narrow(1, block.begin - first, block.width());
}

}  // namespace

std::vector<Block> make_blocks(const Geometry<int64_t>& g, bool has_image_offset) {
  const int64_t groups = g.depthwise() ? 1 : g.groups;
  const int64_t channels = g.in_channels / groups;
  const int64_t width = block_width(channels, has_image_offset);
  std::vector<Block> blocks;
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t channel = 0; channel < channels; channel += width) {
      const int64_t begin = group * channels + channel;
      const int64_t end = group * channels + std::min(channel + width, channels);
      blocks.push_back({group, begin, end, make_segments(begin, end, g)});
    }
  }
  return blocks;
}

at::Tensor pack_weight(const at::Tensor& weight, const Block& block, const Geometry<int64_t>& g) {
  const at::Tensor packed = block_view(weight, block, g).transpose(1, 2).contiguous();
  return g.depthwise() ? packed.squeeze(0) : packed;
}

void unpack_weight(at::Tensor& grad_weight, const at::Tensor& packed, const Block& block,
                   const Geometry<int64_t>& g) {
  const at::Tensor outputs_first = g.depthwise() ? packed.unsqueeze(0) : packed;
  block_view(grad_weight, block, g).copy_(outputs_first.transpose(1, 2));
}

}  // namespace mmdk::cpu
