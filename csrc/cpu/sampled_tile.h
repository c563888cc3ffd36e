// From the input to the sampled data Z of a tile, and back from Z's gradient to the arguments.
//
//   Z[p, s, c] = sum_k m_k(p) * B_{k,s}(p) * x_k[c](p)
//
// where x_k is the input at tap k's image coordinate and B the bilinear weight of scope cell s at
// tap k's scope coordinate. The output is then Z . W: no kernel is ever formed per position.
#pragma once

#include <vector>

#include "cpu/blocks.h"
#include "cpu/sampling_plan.h"
#include "cpu/simd/kernels.h"

namespace mmdk::cpu {

// Where gradients are added, laid out as the Operands they belong to; null where not wanted.
// kernel_offset is always per position: (N, channels, H_out, W_out).
template <typename T>
struct GradTargets {
  T* input = nullptr;
  T* kernel_offset = nullptr;
  T* image_offset = nullptr;
  T* mask = nullptr;

  bool any() const { return input || kernel_offset || image_offset || mask; }
};

template <typename T>
class SampledTile {
 public:
  SampledTile(const Operands<T>& operands, const Geometry<int64_t>& geometry)
      : operands_(operands), geometry_(geometry), plan_(operands, geometry) {}

  void move_to(const PixelRange& pixels);

  // Fills and returns Z (pixels, cells, width) of a block.
  T* sample(const Block& block);
  // Room for a gradient of Z, to be filled before distribute().
  T* buffer(const Block& block);
  // Adds what the gradient of Z in buffer() means for each target.
  void distribute(const Block& block, const GradTargets<T>& targets);

 private:
  const T* tap_values(const Tap<T>& tap, int64_t channel, int64_t channels);
  void distribute_tap(const Tap<T>& tap, const T* grad_z, const Block& block,
                      const Segment& segment, int64_t pixel, int64_t k,
                      const GradTargets<T>& targets);

  Operands<T> operands_;
  const Geometry<int64_t>& geometry_;
  PixelRange pixels_{0, 0, 0};
  SamplingPlan<T> plan_;
  const simd::Kernels<T>& kernels_ = simd::kernels<T>();
  std::vector<T> z_, values_, grad_values_;
};

}  // namespace mmdk::cpu
