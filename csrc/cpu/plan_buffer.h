// Look-up plans of one strip: memory, and requests made from a call.
#pragma once

#include "common/bilinear.h"
#include "cpu/aligned_buffer.h"
#include "cpu/call.h"
#include "cpu/partition.h"

namespace mmdk::cpu {

template <typename T>
class PlanBuffer {
 public:
  explicit PlanBuffer(int64_t taps)
      : cell_(taps * simd::kStrip),
        value_(taps * 4 * simd::kStrip),
        fraction_y_(taps * simd::kStrip),
        fraction_x_(taps * simd::kStrip) {}

  simd::LookupPlan<T> view() const {
    return {cell_.data(), value_.data(), fraction_y_.data(), fraction_x_.data()};
  }

 private:
  AlignedBuffer<int64_t> cell_;
  AlignedBuffer<T> value_, fraction_y_, fraction_x_;
};

// First number of a strip in channel `channel` of a per-position argument.
template <typename T>
T* at_strip(const at::Tensor& argument, const Strip& strip, int64_t channel) {
  if (!argument.defined()) return nullptr;
  const int64_t row = ((strip.image * argument.size(1) + channel) * argument.size(2) + strip.y);
  return static_cast<T*>(argument.data_ptr()) + row * argument.size(3) + strip.x;
}

// Adds rows (count, kStrip) to channels [channel, channel + count) of a per-position argument's
// gradient, and clears them.
template <typename T>
void add_rows(const AlignedBuffer<T>& rows, const at::Tensor& gradient, const Strip& strip,
              int64_t channel, int64_t count) {
  const int64_t plane = gradient.size(2) * gradient.size(3);
  T* to = at_strip<T>(gradient, strip, channel);
  for (int64_t i = 0; i < count; ++i, to += plane) {
    T* row = rows.data() + i * simd::kStrip;
    for (int64_t p = 0; p < strip.pixels; ++p) to[p] += row[p];
    std::fill_n(row, strip.pixels, T(0));
  }
}

// Where the taps of a strip look the scope up, in one offset group.
template <typename T>
class ScopePlan {
 public:
  explicit ScopePlan(int64_t taps) : buffer_(taps) {}

  // Returns whether it was elsewhere before.
  bool move_to(const Call& call, const Strip& strip, int64_t group) {
    if (group == group_ && strip.image == strip_.image && strip.y == strip_.y &&
        strip.x == strip_.x) {
      return false;
    }
    strip_ = strip;
    group_ = group;
    const Geometry<int64_t>& g = call.geometry;
    simd::kernels<T>().plan_lookups({at_strip<T>(call.kernel_offset, strip, group * g.taps() * 2),
                                     g.pixels(),
                                     strip.pixels,
                                     {g.kernel[0], g.kernel[1]},
                                     {g.scope_height, g.scope_width},
                                     {rest_coordinate<double>(0, g.kernel[0], g.scope_height),
                                      rest_coordinate<double>(0, g.kernel[1], g.scope_width)},
                                     {1, 1},
                                     0},
                                    view());
    return true;
  }

  simd::LookupPlan<T> view() const { return buffer_.view(); }

 private:
  PlanBuffer<T> buffer_;
  Strip strip_{-1, 0, 0, 0};
  int64_t group_ = 0;
};

// Where the taps of a chunk look the image up; `bordered_width` is that of a Plane.
template <typename T>
simd::SampledImage<T> plan_image(const Call& call, const Strip& strip, const Chunk& chunk,
                                 int64_t bordered_width, const PlanBuffer<T>& plan) {
  const Geometry<int64_t>& g = call.geometry;
  const int64_t group = chunk.image_offset_group;
  simd::kernels<T>().plan_lookups({at_strip<T>(call.image_offset, strip, group * g.taps() * 2),
                                   g.pixels(),
                                   strip.pixels,
                                   {g.kernel[0], g.kernel[1]},
                                   {g.height, g.width},
                                   {static_cast<double>(strip.y * g.stride[0] - g.padding[0]),
                                    static_cast<double>(strip.x * g.stride[1] - g.padding[1])},
                                   {g.dilation[0], g.dilation[1]},
                                   g.stride[1]},
                                  plan.view());
  return {plan.view(),  at_strip<T>(call.mask, strip, group * g.taps()),
          g.pixels(),   bordered_width,
          strip.pixels, g.taps()};
}

}  // namespace mmdk::cpu
