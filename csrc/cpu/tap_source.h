// What the taps of a strip of outputs see, one chunk at a time, wherever it comes from.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/plan_buffer.h"
#include "cpu/plane.h"
#include "cpu/row_ring.h"

namespace mmdk::cpu {

template <typename T>
class TapSource {
 public:
  virtual ~TapSource() = default;
  // Chunks [part.begin, part.end) of an image are to come, rows from the top downwards.
  virtual void start(int64_t image, const Part& part) = 0;
  // Valid until the next call.
  virtual simd::TapRows<T> rows(const Strip& strip, int64_t chunk) = 0;
};

// Of an image that is not deformed: rows of the image itself.
template <typename T>
class RowSource final : public TapSource<T> {
 public:
  RowSource(const Call& call, const Strips& strips, int64_t part_size, int64_t out_rows)
      : call_(call), input_(call.input), ring_(call.geometry, strips, part_size, out_rows) {}

  void start(int64_t image, const Part& part) override {
    image_ = image;
    part_ = part;
    ring_.forget_all();
  }

  simd::TapRows<T> rows(const Strip& strip, int64_t chunk) override {
    const Geometry<int64_t>& g = call_.geometry;
    const T* const* taps =
        ring_.taps(g, strip, chunk - part_.begin, [](int64_t) {}, [&](int64_t y) { load(y); });
    prefetch_next(strip, chunk);
    return {taps, g.stride[1] * simd::kChunk, strip.pixels, g.taps()};
  }

 private:
  // What the next row of outputs will be the first to read comes near while this one is computed.
  void prefetch_next(const Strip& strip, int64_t chunk) const {
    const Geometry<int64_t>& g = call_.geometry;
    const int64_t y =
        (strip.y + 1) * g.stride[0] - g.padding[0] + (g.kernel[0] - 1) * g.dilation[0];
    if (y < 0 || y >= g.height) return;
    const int64_t x = std::min(strip.x * g.stride[1], g.width - 1);
    input_.prefetch(image_, call_.chunks[chunk].begin, y, x,
                    std::min(strip.pixels * g.stride[1], g.width - x), call_.chunks[chunk].width);
  }

  void load(int64_t y) {
    for (int64_t i = 0; i < part_.size(); ++i) {
      const Chunk& chunk = call_.chunks[part_.begin + i];
      input_.load(image_, chunk.begin, y, 0, ring_.columns().width(), chunk.width,
                  ring_.row(y, i) + ring_.columns().left() * simd::kChunk, simd::kChunk, 1);
    }
  }

  const Call& call_;
  Activation input_;
  RowRing<T> ring_;
  int64_t image_ = 0;
  Part part_{0, 0};
};

// Of one chunk of an image that each tap looks up at a place of its own, and weighs.
template <typename T>
class PlaneSource final : public TapSource<T> {
 public:
  // `plane` holds the chunk that rows() is called for.
  PlaneSource(const Call& call, const Strips& strips, const Plane<T>& plane)
      : call_(call),
        plane_(plane),
        plan_(call.geometry.taps()),
        values_(call.geometry.taps() * strips.most() * simd::kChunk),
        taps_(call.geometry.taps()) {}

  void start(int64_t /*image*/, const Part& /*part*/) override {}

  simd::TapRows<T> rows(const Strip& strip, int64_t chunk) override {
    const int64_t taps = call_.geometry.taps();
    sampled_ = plan_image(call_, strip, call_.chunks[chunk], plane_.bordered_width(), plan_);
    simd::kernels<T>().sample_image(sampled_, plane_.cells(), values_.data());
    for (int64_t k = 0; k < taps; ++k) {
      taps_[k] = values_.data() + k * strip.pixels * simd::kChunk;
    }
    return {taps_.data(), simd::kChunk, strip.pixels, taps};
  }

  // How the image was sampled in the last call of rows().
  const simd::SampledImage<T>& sampled() const { return sampled_; }
  const Plane<T>& plane() const { return plane_; }

 private:
  const Call& call_;
  const Plane<T>& plane_;
  PlanBuffer<T> plan_;
  simd::SampledImage<T> sampled_{};
  AlignedBuffer<T> values_;
  std::vector<const T*> taps_;
};

// The same with a plane of its own, loaded where it starts; its parts are single chunks.
template <typename T>
class OwnPlaneSource final : public TapSource<T> {
 public:
  OwnPlaneSource(const Call& call, const Strips& strips)
      : call_(call), input_(call.input), plane_(call.geometry), source_(call, strips, plane_) {}

  void start(int64_t image, const Part& part) override {
    plane_.load(input_, image, call_.chunks[part.begin]);
  }
  simd::TapRows<T> rows(const Strip& strip, int64_t chunk) override {
    return source_.rows(strip, chunk);
  }

 private:
  const Call& call_;
  Activation input_;
  Plane<T> plane_;
  PlaneSource<T> source_;
};

}  // namespace mmdk::cpu
