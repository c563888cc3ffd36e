// The inner loops of the CPU operators, compiled once per instruction set and chosen at run time.
// Everything here works on plain pointers: what the instruction sets' translation units share must
// not be compiled with instructions that another machine lacks.
#pragma once

#include <cstdint>

namespace mmdk::cpu::simd {

// Channels come in chunks of this many, side by side in memory, the last ones of a chunk zero where
// it holds fewer.
constexpr int64_t kChunk = 32;
// Most output pixels of one row in one call.
constexpr int64_t kStrip = 64;

// A grid that is looked up, a scope or an image, always has a border of zeros one cell wide: the
// four cells of any look-up that is inside exist. Cells are counted in the bordered grid.
//
// Where the taps of some pixels of one row look: a tap's pixels lie side by side.
template <typename T>
struct LookupPlan {
  int64_t* cell;  // (taps, kStrip): the upper left cell of the four; -1 when outside
  T* value;       // (taps, 4, kStrip): the four cells' bilinear weights, row by row
  T* fraction_y;  // (taps, kStrip): how far below that cell the coordinate lies
  T* fraction_x;
};

template <typename T>
struct LookupRequest {
  const T* offset;  // y of tap 0 at the first pixel; null: no offsets
  int64_t plane;    // from an offset's y to its x, and on to the next tap's y
  int64_t pixels;
  int64_t kernel[2];
  int64_t grid[2];  // height and width without the border
  // Coordinates without offset, y and x: of the first tap and pixel, from tap to tap, and, in x
  // only, from pixel to pixel.
  double first[2];
  int64_t tap_step[2];
  int64_t pixel_step;
};

// What the taps of some pixels of one row see, for one chunk of channels.
template <typename T>
struct TapRows {
  const T* const* tap;  // of each tap: its value for the first pixel, (kChunk,); null: nothing
  int64_t pixel_step;   // numbers from a pixel to the next
  int64_t pixels, taps;
};

// Scopes of one chunk of channels and where they are looked up.
template <typename T>
struct SampledScope {
  LookupPlan<T> plan;
  const T* weight;  // (bordered cells, kChunk)
  int64_t bordered_width;
};

// (pixels, kChunk), pixels `step` numbers apart.
template <typename T>
struct ChunkRow {
  T* data;
  int64_t step;
};

template <typename T>
struct DepthwiseGradients {
  ChunkRow<const T> grad_output;
  T* const* grad_input;  // like TapRows::tap, with a step of its own; null when not wanted
  int64_t grad_step;
  T* grad_weight;  // like the weight; null when not wanted
  T* grad_offset;  // (taps, 2, kStrip), y before x; null when not wanted
};

// The gradient of a dense product by its sampled data, see dense.h.
template <typename T>
struct TileGradients {
  const T* grad_z;  // (pixels, channels, cells), pixels `step` numbers apart; readable beyond its
                    // end by one vector
  int64_t step, channels;
  int64_t scope[2];
  T* scratch;            // (bordered cells, kChunk), the border zero
  T* const* grad_input;  // these as in DepthwiseGradients
  int64_t grad_step;
  T* grad_offset;
};

// A matrix product outputs (outputs, pixels) = weight (outputs, terms) . Z (pixels, terms)^T: its
// sizes, and numbers from a row to the next.
template <typename T>
struct Products {
  int64_t pixels, outputs, terms;
  int64_t z_step, weight_step, output_step;
};

// A sampled image: four cells for each tap of each pixel.
template <typename T>
struct SampledImage {
  LookupPlan<T> plan;
  const T* mask;  // of tap 0 at the first pixel; null: one everywhere
  int64_t mask_plane;
  int64_t bordered_width;
  int64_t pixels, taps;
};

// Gradients by what SampledImage looks up with; (taps, 2, kStrip) and (taps, kStrip), null when not
// wanted.
template <typename T>
struct ImageGradients {
  T* offset;
  T* mask;
};

// How the numbers of a tensor are stored, beside T itself.
enum class Storage { kSame, kHalf, kBFloat16 };

// (pixels, channels) of a tensor, strides in numbers.
template <typename Void>
struct Numbers {
  Void* data;
  Storage storage;
  int64_t pixel_stride, channel_stride;
};

template <typename T>
struct Kernels {
  // (pixels, channels) from a tensor into a buffer, and back
  void (*load)(T* to, int64_t pixel_stride, int64_t channel_stride, const Numbers<const void>& from,
               int64_t pixels, int64_t channels);
  void (*store)(const Numbers<void>& to, const T* from, int64_t pixel_stride,
                int64_t channel_stride, int64_t pixels, int64_t channels);

  void (*plan_lookups)(const LookupRequest<T>& request, const LookupPlan<T>& plan);

  // output = bias + the depthwise sum; bias (kChunk,)
  void (*depthwise_forward)(const TapRows<T>& input, const SampledScope<T>& scope, const T* bias,
                            const ChunkRow<T>& output);
  // The same with a weight (taps, kChunk) that is not looked up.
  void (*rigid_forward)(const TapRows<T>& input, const T* weight, const T* bias,
                        const ChunkRow<T>& output);
  // Add to every gradient that is wanted.
  void (*depthwise_backward)(const TapRows<T>& input, const SampledScope<T>& scope,
                             const DepthwiseGradients<T>& gradients);
  // Here grad_weight is (taps, kChunk), and there is no grad_offset.
  void (*rigid_backward)(const TapRows<T>& input, const T* weight,
                         const DepthwiseGradients<T>& gradients);

  // coefficients (kStrip, taps, padded_cells(cells)): a look-up as one row over all cells of the
  // scope, zero but for four
  void (*spread_plan)(const LookupPlan<T>& plan, const int64_t* scope, int64_t pixels, int64_t taps,
                      T* coefficients);
  // z (pixels, channels, cells), pixels `step` numbers apart = the sum over taps of value *
  // coefficients
  void (*sample_tile)(const TapRows<T>& input, const T* coefficients, int64_t cells,
                      int64_t channels, T* z, int64_t step);
  // The same where each tap is a cell of its own: z (pixels, channels, taps).
  void (*collect_tile)(const TapRows<T>& input, int64_t channels, T* z, int64_t step);
  // Add to the gradients that are wanted; `weight` is not read.
  void (*sample_tile_backward)(const TapRows<T>& input, const SampledScope<T>& scope,
                               const TileGradients<T>& gradients);
  void (*collect_tile_backward)(const TapRows<T>& input, const TileGradients<T>& gradients);

  // For few outputs: outputs += weight . Z^T; grad_z = grad^T . weight; grad_weight += grad . Z,
  // grad being that of the outputs
  void (*products)(const Products<T>& of, const T* z, const T* weight, T* outputs);
  void (*products_by_z)(const Products<T>& of, const T* grad, const T* weight, T* grad_z);
  void (*products_by_weight)(const Products<T>& of, const T* z, const T* grad, T* grad_weight);

  // to (taps, pixels, kChunk) = what the taps see in a bordered image of (cells, kChunk)
  void (*sample_image)(const SampledImage<T>& image, const T* cells, T* to);
  // Adds to each cell what `grad`, like sample_image's `to`, means for it.
  void (*scatter_image)(const SampledImage<T>& image, const T* grad, T* cells);
  // Adds to the gradients that are wanted.
  void (*image_gradients)(const SampledImage<T>& image, const T* cells, const T* grad,
                          const ImageGradients<T>& gradients);

  // sums (kChunk,) += rows (pixels, kChunk)
  void (*add_pixels)(T* sums, const T* rows, int64_t pixels);

  // Over `size` numbers that begin at each of four cells of look-ups:
  // to += the weighted sum of the cells of `from`
  void (*gather)(T* to, const T* from, const int64_t* cell, const T* value, int64_t size);
  // each cell of `to` += its weight * from
  void (*scatter)(T* to, const int64_t* cell, const T* value, const T* from, int64_t size);
  // along[i] = the dot product of cell i of `from` with `other`
  void (*dots)(T* along, const T* from, const int64_t* cell, const T* other, int64_t size);
};

// Numbers from one row of sample_tile's coefficients to the next, for any instruction set.
constexpr int64_t padded_cells(int64_t cells) { return (cells + 15) / 16 * 16; }

// For the best instruction set that this machine has and ATEN_CPU_CAPABILITY (default, avx2,
// avx512) allows; read once.
template <typename T>
const Kernels<T>& kernels();

}  // namespace mmdk::cpu::simd
