#include "cpu/sampled_tile.h"

#include <algorithm>

#include "cpu/vector.h"

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
  for_each_cell(tap.image, geometry_.width, [&](int64_t cell, T value, T, T) {
    if (value != 0) {
      add_scaled(values_.data(), image + cell * geometry_.in_channels, value, channels);
    }
  });
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
        for_each_cell(tap.scope, geometry_.scope_width, [&](int64_t cell, T value, T, T) {
          const T factor = value * tap.mask;
          if (factor != 0) add_scaled(z + cell * width + s.begin, values, factor, channels);
        });
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

  // The gradient that arrives at the sampled values, mask not yet applied; and at the scope
  // coordinate.
  grad_values_.assign(channels, T(0));
  T grad_y = 0, grad_x = 0;
  for_each_cell(tap.scope, g.scope_width, [&](int64_t cell, T value, T slope_y, T slope_x) {
    const T* grad_cell = grad_z + cell * block.width() + segment.begin;
    if (value != 0) add_scaled(grad_values_.data(), grad_cell, value, channels);
    if (targets.kernel_offset != nullptr) {
      const T along = tap.mask * dot(values, grad_cell, channels);
      grad_y += slope_y * along;
      grad_x += slope_x * along;
    }
  });
  if (targets.kernel_offset != nullptr) {
    const int64_t group = pixels_.image * g.kernel_offset_groups + segment.kernel_offset_group;
    T* grad = targets.kernel_offset + (group * g.taps() + k) * 2 * g.pixels() + position;
    grad[0] += grad_y;
    grad[g.pixels()] += grad_x;
  }

  const int64_t image_group = pixels_.image * g.image_offset_groups + segment.image_offset_group;
  if (targets.mask != nullptr) {
    targets.mask[(image_group * g.taps() + k) * g.pixels() + position] +=
        dot(values, grad_values_.data(), channels);
  }
  if (targets.image_offset == nullptr && targets.input == nullptr) return;

  const int64_t image_start = pixels_.image * g.height * g.width * g.in_channels + first_channel;
  grad_y = grad_x = 0;
  for_each_cell(tap.image, g.width, [&](int64_t cell, T value, T slope_y, T slope_x) {
    const int64_t at = image_start + cell * g.in_channels;
    if (targets.input != nullptr && value != 0) {
      add_scaled(targets.input + at, grad_values_.data(), value * tap.mask, channels);
    }
    if (targets.image_offset != nullptr) {
      const T along = tap.mask * dot(operands_.input + at, grad_values_.data(), channels);
      grad_y += slope_y * along;
      grad_x += slope_x * along;
    }
  });
  if (targets.image_offset != nullptr) {
    T* grad = targets.image_offset + (image_group * g.taps() + k) * 2 * g.pixels() + position;
    grad[0] += grad_y;
    grad[g.pixels()] += grad_x;
  }
}

template class SampledTile<float>;
template class SampledTile<double>;

}  // namespace mmdk::cpu
