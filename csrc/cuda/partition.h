// How a call is cut into blocks of threads: channels into blocks of neighbours, pixels into runs of
// tiles. By its shape and by what the device has, never by a table of known shapes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "cuda/launch.h"
#include "cuda/shape.h"

namespace mmdk::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
// Enough to hide the latency of memory, few enough to share out what a block prepares.
constexpr int64_t kBlocksPerProcessor = 4;

inline int64_t round_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// The threads of a block: neighbouring lanes work on neighbouring channels, rows on pixels.
struct Threads {
  int lanes, rows;

  // Lanes for so many vectors of channels: a power of two, `most` at most.
  static Threads of(int64_t vectors, int most, int threads) {
    int lanes = 1;
    while (lanes < vectors && lanes < most) lanes *= 2;
    return {lanes, threads / lanes};
  }

  dim3 block() const { return dim3(lanes, rows); }
};

// Channels of one block; they share their offset groups.
struct Channels {
  int64_t first;
  int count;
  int64_t kernel_offset_group, image_offset_group;
};

class ChannelBlocks {
 public:
  // Lanes with `vector` channels each, at most `most_lanes` of so many threads.
  ChannelBlocks(const Geometry<int64_t>& g, int vector, int most_lanes, int threads)
      : per_kernel_offset_group_(g.in_channels / g.kernel_offset_groups),
        per_image_offset_group_(g.in_channels / g.image_offset_groups),
        segment_(std::gcd(per_kernel_offset_group_, per_image_offset_group_)),
        threads_(Threads::of(round_up(segment_, vector), most_lanes, threads)),
        width_(threads_.lanes * vector),
        per_segment_(round_up(segment_, width_)),
        count_(g.in_channels / segment_ * per_segment_) {}

  MMDK_HOST_DEVICE Threads threads() const { return threads_; }
  int width() const { return width_; }
  MMDK_HOST_DEVICE int64_t count() const { return count_; }
  // Of the blocks of one offset group.
  MMDK_HOST_DEVICE int64_t per_kernel_offset_group() const {
    return per_kernel_offset_group_ / segment_ * per_segment_;
  }
  MMDK_HOST_DEVICE int64_t per_image_offset_group() const {
    return per_image_offset_group_ / segment_ * per_segment_;
  }

  MMDK_HOST_DEVICE Channels at(int64_t block) const {
    const int64_t segment = divide(block, per_segment_);
    const int64_t begin = (block - segment * per_segment_) * width_;
    const int64_t left = segment_ - begin, first = segment * segment_ + begin;
    return {first, static_cast<int>(left < width_ ? left : width_),
            divide(first, per_kernel_offset_group_), divide(first, per_image_offset_group_)};
  }

 private:
  int64_t per_kernel_offset_group_, per_image_offset_group_;  // channels
  int64_t segment_;  // channels between the borders of any offset groups
  Threads threads_;
  int width_;
  int64_t per_segment_, count_;
};

// Tiles of pixels that follow upon each other.
struct Run {
  int64_t image;       // of the weights, where images have weights of their own
  int64_t begin, end;  // pixels, counted over all images
};

// Pixels of a batch, cut into as many runs of tiles as the device is kept busy by.
class PixelRuns {
 public:
  PixelRuns(int64_t batch, int64_t pixels, bool weights_per_image, int tile, int64_t channel_blocks,
            const Device& device)
      : tile_(tile),
        groups_(weights_per_image ? batch : 1),
        pixels_(weights_per_image ? pixels : batch * pixels) {
    const int64_t tiles = round_up(pixels_, tile);
    const int64_t wanted = round_up(device.processors * kBlocksPerProcessor, channel_blocks);
    const int64_t possible = std::max<int64_t>(kMostBlocks / channel_blocks / groups_, 1);
    const int64_t runs = std::min({tiles, round_up(wanted, groups_), possible});
    length_ = round_up(tiles, runs) * tile;
    per_group_ = round_up(pixels_, length_);
  }

  MMDK_HOST_DEVICE int tile() const { return tile_; }
  MMDK_HOST_DEVICE int64_t count() const { return groups_ * per_group_; }
  int64_t groups() const { return groups_; }

  MMDK_HOST_DEVICE Run at(int64_t index) const {
    const int64_t group = divide(index, per_group_);
    const int64_t begin = (index - group * per_group_) * length_;
    const int64_t end = begin + length_ < pixels_ ? begin + length_ : pixels_;
    return {group, group * pixels_ + begin, group * pixels_ + end};
  }

 private:
  int tile_;
  int64_t groups_, pixels_, length_ = 0, per_group_ = 0;
};

// What one block of a launch works on: a run of pixels of its channels. All channels of a run
// follow upon each other, since they read the same pixels.
struct Block {
  int64_t run_index, channel_block;
  Run run;
  Channels channels;

  static int64_t count(const PixelRuns& runs, const ChannelBlocks& channels) {
    return runs.count() * channels.count();
  }
  static MMDK_HOST_DEVICE Block at(int64_t number, const PixelRuns& runs,
                                   const ChannelBlocks& channels) {
    const int64_t run = divide(number, channels.count());
    const int64_t channel_block = number - run * channels.count();
    return {run, channel_block, runs.at(run), channels.at(channel_block)};
  }
};

}  // namespace mmdk::cuda
