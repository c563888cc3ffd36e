#include "cpu/sampled_tile.h"

#include <algorithm>

#include "cpu/look_up_cells.h"

namespace mmdk::cpu {
template <typename T>
void SampledTile<T>::move_to(const PixelRange& pixels) {
  pixels_ = pixels;
  plan_.compute(pixels);
}

template <typename T>
T* SampledTile<T>::buffer(const Block& block) {
  z_.resize(pixels_.size() * geometry_.cells() * block.width());
  return z_.data();
}

template <typename T>
const T* SampledTile<T>::tap_values(const Tap<T>& tap, int64_t channel, int64_t channels) {
  const int64_t plane = geometry_.height * geometry_.width;
  const T* image = operands_.input + pixels_.image * plane * geometry_.in_channels + channel;
  if (operands_.image_offset == nullptr) {
    return image +
           (tap.image.y.cell[0] * geometry_.width + tap.image.x.cell[0]) * geometry_.in_channels;
  }
  values_.assign(channels, T(0));
  kernels_.gather(values_.data(), image,
                  cells_of(tap.image, geometry_.width, geometry_.in_channels, T(1)), channels);
  return values_.data();
}

template <typename T>
T* SampledTile<T>::sample(const Block& block) {
  const int64_t width = block.width(), cells = geometry_.cells();
  T* z = buffer(block);
  std::fill_n(z, pixels_.size() * cells * width, T(0));
  for (int64_t p = 0; p < pixels_.size(); ++p, z += cells * width) {
    for (int64_t k = 0; k < geometry_.taps(); ++k) {
      for (const Segment& s : block.segments) {
        const Tap<T> tap = plan_.tap(p, k, s.kernel_offset_group, s.image_offset_group);
        if (!tap.scope.inside || !tap.image.inside) continue;
        const int64_t channels = s.end - s.begin;
        const T* values = tap_values(tap, block.begin + s.begin, channels);
        kernels_.scatter(z + s.begin, cells_of(tap.scope, geometry_.scope_width, width, tap.mask),
                         values, channels);
      }
    }
  }
  return z_.data();
}

template <typename T>
void SampledTile<T>::distribute(const Block& block, const GradTargets<T>& targets) {
  const int64_t pixel_size = geometry_.cells() * block.width();
  for (int64_t p = 0; p < pixels_.size(); ++p) {
    for (int64_t k = 0; k < geometry_.taps(); ++k) {
      for (const Segment& s : block.segments) {
        const Tap<T> tap = plan_.tap(p, k, s.kernel_offset_group, s.image_offset_group);
        if (!tap.scope.inside || !tap.image.inside) continue;
        distribute_tap(tap, z_.data() + p * pixel_size, block, s, p, k, targets);
      }
    }
  }
}

template <typename T>
void SampledTile<T>::distribute_tap(const Tap<T>& tap, const T* grad_z, const Block& block,
                                    const Segment& segment, int64_t pixel, int64_t k,
                                    const GradTargets<T>& targets) {
  const Geometry<int64_t>& g = geometry_;
  const int64_t channels = segment.end - segment.begin;
  const int64_t first_channel = block.begin + segment.begin;
  const int64_t position = pixels_.begin + pixel;
  const T* values = tap_values(tap, first_channel, channels);

  // What arrives at the sampled values, mask not yet applied.
  const T* grad_scope = grad_z + segment.begin;
  const auto scope = cells_of(tap.scope, g.scope_width, block.width(), T(1));
  grad_values_.assign(channels, T(0));
  kernels_.gather(grad_values_.data(), grad_scope, scope, channels);
  T along[4];
  if (targets.kernel_offset != nullptr) {
    const int64_t group = pixels_.image * g.kernel_offset_groups + segment.kernel_offset_group;
    kernels_.dots(along, grad_scope, scope, values, channels);
    add_coordinate_gradient(
        tap.scope, along, tap.mask,
        targets.kernel_offset + (group * g.taps() + k) * 2 * g.pixels() + position, g.pixels());
  }

  const int64_t image_group = pixels_.image * g.image_offset_groups + segment.image_offset_group;
  if (targets.mask != nullptr) {
    T* grad = targets.mask + (image_group * g.taps() + k) * g.pixels() + position;
    for (int64_t c = 0; c < channels; ++c) *grad += values[c] * grad_values_[c];
  }
  if (targets.image_offset == nullptr && targets.input == nullptr) return;

  const int64_t image_start = pixels_.image * g.height * g.width * g.in_channels + first_channel;
  const auto image = cells_of(tap.image, g.width, g.in_channels, tap.mask);
  if (targets.input != nullptr) {
    kernels_.scatter(targets.input + image_start, image, grad_values_.data(), channels);
  }
  if (targets.image_offset != nullptr) {
    kernels_.dots(along, operands_.input + image_start, image, grad_values_.data(), channels);
    add_coordinate_gradient(
        tap.image, along, tap.mask,
        targets.image_offset + (image_group * g.taps() + k) * 2 * g.pixels() + position,
        g.pixels());
  }
}

template class SampledTile<float>;
template class SampledTile<double>;

}  // namespace mmdk::cpu
