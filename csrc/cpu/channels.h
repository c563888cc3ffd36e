// Input channels, cut into the units of work of the CPU kernels: by the geometry alone.
#pragma once

#include <algorithm>
#include <vector>

#include "common/geometry.h"
#include "cpu/simd/kernels.h"

namespace mmdk::cpu {

// At most simd::kChunk neighbouring channels of one convolution group (any, when depthwise) that
// share their offset groups.
struct Chunk {
  int64_t begin, width;
  int64_t group;  // of the convolution
  int64_t kernel_offset_group, image_offset_group;
};

// Neighbouring chunks that are worked on together.
struct Part {
  int64_t begin, end;  // chunks

  int64_t size() const { return end - begin; }
};

inline std::vector<Chunk> make_chunks(const Geometry<int64_t>& g) {
  const int64_t per_group = g.depthwise() ? g.in_channels : g.group_channels;
  const int64_t per_kernel_offset = g.in_channels / g.kernel_offset_groups;
  const int64_t per_image_offset = g.in_channels / g.image_offset_groups;
  const auto end_of_run = [](int64_t channel, int64_t run) { return (channel / run + 1) * run; };
  std::vector<Chunk> chunks;
  for (int64_t channel = 0; channel < g.in_channels;) {
    const int64_t end =
        std::min({channel + simd::kChunk, end_of_run(channel, per_group),
                  end_of_run(channel, per_kernel_offset), end_of_run(channel, per_image_offset)});
    chunks.push_back({channel, end - channel, channel / per_group, channel / per_kernel_offset,
                      channel / per_image_offset});
    channel = end;
  }
  return chunks;
}

// Parts of about `channels` channels: within one convolution group, or several whole ones.
inline std::vector<Part> make_parts(const std::vector<Chunk>& chunks, int64_t channels) {
  std::vector<Part> parts;
  const int64_t count = static_cast<int64_t>(chunks.size());
  const auto end_of_group = [&](int64_t i) {
    const int64_t group = chunks[i].group;
    while (i < count && chunks[i].group == group) ++i;
    return i;
  };
  const auto width = [&](int64_t begin, int64_t end) {
    return chunks[end - 1].begin + chunks[end - 1].width - chunks[begin].begin;
  };
  for (int64_t begin = 0; begin < count;) {
    int64_t end = begin;
    const bool whole = width(begin, end_of_group(begin)) <= channels;
    do {
      end = whole ? end_of_group(end) : end + 1;
    } while (end < count && (whole || chunks[end].group == chunks[begin].group) &&
             width(begin, whole ? end_of_group(end) : end + 1) <= channels);
    parts.push_back({begin, end});
    begin = end;
  }
  return parts;
}

// Most chunks of a part.
inline int64_t largest(const std::vector<Part>& parts) {
  int64_t size = 0;
  for (const Part& part : parts) size = std::max(size, part.size());
  return size;
}

}  // namespace mmdk::cpu
