// The inner loops of the CPU operators, compiled once per instruction set and chosen at run time.
// Everything here works on plain pointers: what the instruction sets' translation units share must
// not be compiled with instructions that another machine lacks.
#pragma once

#include <cstdint>

namespace mmdk::cpu::simd {

// Channels of the depthwise kernels come in chunks of this many, the last one padded with zeros.
constexpr int64_t kChunk = 32;
// Most output pixels of one row in one call of the depthwise kernels.
constexpr int64_t kRowPixels = 64;

// The four cells of one look-up: where each one's channels begin, and its bilinear weight.
template <typename T>
struct Cells {
  int64_t offset[4];
  T value[4];
};

// Where the taps of up to kRowPixels pixels look up a scope that has a border of zeros, one cell
// wide; a tap's pixels lie side by side.
template <typename T>
struct ScopePlan {
  int32_t* cell;  // (taps, kRowPixels): the upper left cell of the four; -1 when outside
  T* value;       // (taps, 4, kRowPixels): the four cells' bilinear weights, row by row
  T* fraction_y;  // (taps, kRowPixels)
  T* fraction_x;
};

// Offsets of one image and offset group: y of tap k at offset + 2 * k * plane, x one plane on.
template <typename T>
struct ScopePlanInput {
  const T* offset;      // at the first pixel; null means zero
  int64_t plane, step;  // step 0: one kernel per image
  int64_t pixels;
  int64_t kernel[2], scope[2];
};

// Consecutive output pixels of one row, and one chunk of channels. Activations are (pixels,
// kChunk), with the padding around the image written out as zeros.
template <typename T>
struct DepthwiseRow {
  ScopePlan<T> plan;
  int64_t pixels, taps;
  int64_t pixel_step;      // input numbers from a pixel to the next
  int64_t bordered_width;  // of the scope: S_w + 2
  const T* const* input;   // of each tap: its value for the first pixel
  const T* weight;         // (bordered cells, kChunk)
};

template <typename T>
struct DepthwiseGradients {
  const T* grad_output;  // (pixels, kChunk)
  T* const* grad_input;  // like input; null when not wanted
  T* grad_weight;        // (bordered cells, kChunk); null when not wanted
  T* along;  // (taps, kRowPixels, 4): sums over channels of grad * input * cell; null likewise
};

// A row of pixels of an activation, and all its channels.
template <typename T>
struct PixelRow {
  T* data;
  int64_t pixels, channels;
  int64_t pixel_stride, channel_stride;
};

template <typename T>
struct Kernels {
  const char* name;
  // to[i] += factor * from[i]
  void (*add_scaled)(T* to, const T* from, T factor, int64_t size);
  // to += the weighted sum of the cells of `from`
  void (*gather)(T* to, const T* from, const Cells<T>& cells, int64_t size);
  // each cell of `to` += its weight * from; cells of weight zero may coincide with others
  void (*scatter)(T* to, const Cells<T>& cells, const T* from, int64_t size);
  // along[i] = the dot product of cell i of `from` with `other`
  void (*dots)(T* along, const T* from, const Cells<T>& cells, const T* other, int64_t size);
  void (*plan_scope)(const ScopePlanInput<T>& input, const ScopePlan<T>& plan);
  // (chunks, pixels, kChunk), a chunk `chunk_stride` numbers from the next, from a row; channels
  // that are missing in the last chunk are left as they are
  void (*load_row)(T* to, int64_t chunk_stride, const PixelRow<const T>& from);
  // a row from (chunks, pixels, kChunk)
  void (*store_row)(const PixelRow<T>& to, const T* from, int64_t chunk_stride);
  // a row += (chunks, pixels, kChunk)
  void (*add_row)(const PixelRow<T>& to, const T* from, int64_t chunk_stride);
  // output (pixels, kChunk) += the depthwise sum
  void (*depthwise_forward)(const DepthwiseRow<T>& row, T* output);
  // adds to every gradient that is wanted
  void (*depthwise_backward)(const DepthwiseRow<T>& row, const DepthwiseGradients<T>& gradients);
};

// For the best instruction set that this machine has and ATEN_CPU_CAPABILITY (default, avx2,
// avx512) allows; read once.
template <typename T>
const Kernels<T>& kernels();

}  // namespace mmdk::cpu::simd
