// The gradient of a bias: an activation's sum over all but its channels.
#pragma once

#include "cpu/activation.h"
#include "cpu/aligned_buffer.h"
#include "cpu/partition.h"

namespace mmdk::cpu {

// Adds to sums (channels,). Rows are summed on their own first, which keeps long sums accurate.
template <typename T>
void add_up_channels(const Activation& activation, int64_t images, T* sums) {
  const int64_t channels = activation.channels();
  const int64_t chunks = (channels + simd::kChunk - 1) / simd::kChunk;
  run_tasks(chunks, [&](int64_t begin, int64_t end) {
    AlignedBuffer<T> rows(simd::kStrip * simd::kChunk);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * simd::kChunk;
      const int64_t width = std::min(simd::kChunk, channels - first);
      for (int64_t row = 0; row < images * activation.height(); ++row) {
        T of_row[simd::kChunk] = {};
        for (int64_t x = 0; x < activation.width(); x += simd::kStrip) {
          const int64_t pixels = std::min(simd::kStrip, activation.width() - x);
          activation.load(row / activation.height(), first, row % activation.height(), x, pixels,
                          width, rows.data(), simd::kChunk, 1);
          simd::kernels<T>().add_pixels(of_row, rows.data(), pixels);
        }
        for (int64_t c = 0; c < width; ++c) sums[first + c] += of_row[c];
      }
    }
  });
}

}  // namespace mmdk::cpu
