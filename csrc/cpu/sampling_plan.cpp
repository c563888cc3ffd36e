#include "cpu/sampling_plan.h"

namespace mmdk::cpu {
namespace {

// Index of channel (group, tap, axis) in a (N, groups*taps*2, H_out, W_out) offset, at pixel 0.
int64_t offset_index(int64_t image, int64_t groups, int64_t group, int64_t taps, int64_t tap,
                     int64_t axis, int64_t pixels) {
  return (((image * groups + group) * taps + tap) * 2 + axis) * pixels;
}

}  // namespace

template <typename T>
void SamplingPlan<T>::compute(const PixelRange& pixels) {
  const int64_t taps = geometry_.taps();
  pixels_ = pixels;
  scope_.resize(geometry_.kernel_offset_groups * taps * pixels.size());
  image_.resize(geometry_.image_offset_groups * taps * pixels.size());
  mask_.resize(image_.size());
  for (int64_t group = 0; group < geometry_.kernel_offset_groups; ++group) {
    for (int64_t tap = 0; tap < taps; ++tap) compute_scope(group, tap);
  }
  for (int64_t group = 0; group < geometry_.image_offset_groups; ++group) {
    for (int64_t tap = 0; tap < taps; ++tap) compute_image(group, tap);
  }
}

template <typename T>
void SamplingPlan<T>::compute_scope(int64_t group, int64_t tap) {
  const Geometry<int64_t>& g = geometry_;
  const T rest_y = rest_coordinate<T>(tap / g.kernel[1], g.kernel[0], g.scope_height);
  const T rest_x = rest_coordinate<T>(tap % g.kernel[1], g.kernel[1], g.scope_width);
  Lookup<T>* lookups = &scope_[entry(group, tap, 0)];
  if (operands_.kernel_offset == nullptr) {
    const Lookup<T> rigid = look_up(rest_y, rest_x, g.scope_height, g.scope_width);
    for (int64_t p = 0; p < pixels_.size(); ++p) lookups[p] = rigid;
    return;
  }
  const int64_t plane = operands_.kernel_offset_per_image ? 1 : g.pixels();
  const int64_t step = operands_.kernel_offset_per_image ? 0 : 1;
  const T* y = operands_.kernel_offset +
               offset_index(pixels_.image, g.kernel_offset_groups, group, g.taps(), tap, 0, plane);
  const T* x = y + plane;
  for (int64_t p = 0; p < pixels_.size(); ++p) {
    const int64_t position = (pixels_.begin + p) * step;
    lookups[p] = look_up(rest_y + y[position], rest_x + x[position], g.scope_height, g.scope_width);
  }
}

template <typename T>
void SamplingPlan<T>::compute_image(int64_t group, int64_t tap) {
  const Geometry<int64_t>& g = geometry_;
  const int64_t tap_y = tap / g.kernel[1] * g.dilation[0] - g.padding[0];
  const int64_t tap_x = tap % g.kernel[1] * g.dilation[1] - g.padding[1];
  const int64_t plane = g.pixels();
  const T* y = nullptr;
  if (operands_.image_offset != nullptr) {
    y = operands_.image_offset +
        offset_index(pixels_.image, g.image_offset_groups, group, g.taps(), tap, 0, plane);
  }
  const T* mask = nullptr;
  if (operands_.mask != nullptr) {
    mask =
        operands_.mask + ((pixels_.image * g.image_offset_groups + group) * g.taps() + tap) * plane;
  }
  for (int64_t p = 0; p < pixels_.size(); ++p) {
    const int64_t position = pixels_.begin + p;
    const int64_t rigid_y = position / g.out_width * g.stride[0] + tap_y;
    const int64_t rigid_x = position % g.out_width * g.stride[1] + tap_x;
    image_[entry(group, tap, p)] =
        y == nullptr
            ? look_up_cell<T>(rigid_y, rigid_x, g.height, g.width)
            : look_up(rigid_y + y[position], rigid_x + y[plane + position], g.height, g.width);
    mask_[entry(group, tap, p)] = mask == nullptr ? T(1) : mask[position];
  }
}

template <typename T>
Tap<T> SamplingPlan<T>::tap(int64_t pixel, int64_t tap, int64_t kernel_offset_group,
                            int64_t image_offset_group) const {
  const int64_t in_image = entry(image_offset_group, tap, pixel);
  return {scope_[entry(kernel_offset_group, tap, pixel)], image_[in_image], mask_[in_image]};
}

template class SamplingPlan<float>;
template class SamplingPlan<double>;

}  // namespace mmdk::cpu
