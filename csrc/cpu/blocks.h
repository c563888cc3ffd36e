// Input channels cut into blocks: the unit of work between a sampled tile and the weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "common/geometry.h"

namespace mmdk::cpu {

// A run of channels, counted from the start of its block, that shares its offset groups.
struct Segment {
  int64_t begin, end;
  int64_t kernel_offset_group, image_offset_group;
};

// Input channels [begin, end) of one convolution group; of all groups when depthwise.
struct Block {
  int64_t group;
  int64_t begin, end;
  std::vector<Segment> segments;

  int64_t width() const { return end - begin; }
};

// Depends on the geometry alone, never on the number of threads: so do all sums.
std::vector<Block> make_blocks(const Geometry<int64_t>& geometry, bool has_image_offset);

// The weight (C_out, C_in/groups, S_h, S_w) of a block with its channels innermost: (outputs of the
// group, cells, width), or (cells, width) when depthwise.
at::Tensor pack_weight(const at::Tensor& weight, const Block& block,
                       const Geometry<int64_t>& geometry);

// Writes a packed gradient to its place in grad_weight.
void unpack_weight(at::Tensor& grad_weight, const at::Tensor& packed, const Block& block,
                   const Geometry<int64_t>& geometry);

}  // namespace mmdk::cpu
