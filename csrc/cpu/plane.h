// One chunk of one image as a whole, channels innermost, with a border of zeros one cell wide: what
// taps with image offsets, which may reach any place, look up or add to.
#pragma once

#include "cpu/activation.h"
#include "cpu/aligned_buffer.h"
#include "cpu/channels.h"
#include "cpu/partition.h"

namespace mmdk::cpu {

template <typename T>
class Plane {
 public:
  explicit Plane(const Geometry<int64_t>& g)
      : height_(g.height), width_(g.width), cells_((g.height + 2) * (g.width + 2) * simd::kChunk) {}

  T* cells() const { return cells_.data(); }
  int64_t bordered_width() const { return width_ + 2; }

  void load(const Activation& from, int64_t image, const Chunk& chunk) {
    run_tasks(kTasks, [&](int64_t begin, int64_t end) {
      const int64_t last = share(height_, end - 1, kTasks).end;
      for (int64_t y = share(height_, begin, kTasks).begin; y < last; ++y) {
        from.load(image, chunk.begin, y, 0, width_, chunk.width, row(y), simd::kChunk, 1);
      }
    });
  }

  void fill_zero() { cells_.fill_zero(); }

  void store(const Activation& to, int64_t image, const Chunk& chunk) const {
    for (int64_t y = 0; y < height_; ++y) {
      to.store(image, chunk.begin, y, 0, width_, chunk.width, row(y), simd::kChunk, 1);
    }
  }

 private:
  T* row(int64_t y) const { return cells() + ((y + 1) * bordered_width() + 1) * simd::kChunk; }

  int64_t height_, width_;
  AlignedBuffer<T> cells_;
};

}  // namespace mmdk::cpu
