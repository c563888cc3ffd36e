// Where the taps of a few output pixels look, in the scope and in the image: computed once, shared
// by all channels.
#pragma once

#include <vector>

#include "common/bilinear.h"
#include "common/geometry.h"

namespace mmdk::cpu {

// Output pixels [begin, end) of one image, counted row by row.
struct PixelRange {
  int64_t image;
  int64_t begin, end;

  int64_t size() const { return end - begin; }
};

// The data of one call in the layout the CPU kernels work on: channels innermost for input and
// output (N, H, W, C), offsets as they come (N, channels, H_out, W_out), all contiguous, all T.
// A pointer is null where the argument is absent.
template <typename T>
struct Operands {
  const T* input;
  const T* kernel_offset;
  const T* image_offset;
  const T* mask;
  bool kernel_offset_per_image;  // (N, channels, 1, 1)
};

// One tap of one pixel in one pair of offset groups.
template <typename T>
struct Tap {
  const Lookup<T>& scope;
  const Lookup<T>& image;
  T mask;
};

template <typename T>
class SamplingPlan {
 public:
  SamplingPlan(const Operands<T>& operands, const Geometry<int64_t>& geometry)
      : operands_(operands), geometry_(geometry) {}

  void compute(const PixelRange& pixels);

  // `pixel` counts from the start of the range.
  Tap<T> tap(int64_t pixel, int64_t tap, int64_t kernel_offset_group,
             int64_t image_offset_group) const;

 private:
  void compute_scope(int64_t group, int64_t tap);
  void compute_image(int64_t group, int64_t tap);
  int64_t entry(int64_t group, int64_t tap, int64_t pixel) const {
    return (group * geometry_.taps() + tap) * pixels_.size() + pixel;
  }

  Operands<T> operands_;
  const Geometry<int64_t>& geometry_;
  PixelRange pixels_{0, 0, 0};
  std::vector<Lookup<T>> scope_, image_;
  std::vector<T> mask_;
};

}  // namespace mmdk::cpu
