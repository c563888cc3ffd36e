// Where the gradients of what the taps of a strip of outputs saw go, one chunk at a time.
#pragma once

#include <memory>
#include <vector>

#include "cpu/plan_buffer.h"
#include "cpu/plane.h"
#include "cpu/row_ring.h"
#include "cpu/tap_source.h"

namespace mmdk::cpu {

template <typename T>
class TapSink {
 public:
  virtual ~TapSink() = default;
  // Like the taps of TapSource::rows; to be added to.
  virtual T* const* rows(const Strip& strip, int64_t chunk) = 0;
  // Numbers from a pixel to the next.
  virtual int64_t pixel_step() const = 0;
  // All has been added.
  virtual void finish(const Strip& /*strip*/, int64_t /*chunk*/) {}
};

// Input rows that two neighbouring bands add to, as sums of each of them.
template <typename T>
class Seams {
 public:
  Seams(const Call& call, const Bands& bands, bool wanted)
      : g_(call.geometry),
        bands_(bands),
        chunks_(static_cast<int64_t>(call.chunks.size())),
        sums_(wanted ? g_.batch * (bands.count() - 1) * 2 * rows() * chunks_ * row_size() : 0) {}

  // Whose sum row y of `band` is: that with the band before, with the band after, or its own.
  enum class Side { kBefore = -1, kNone = 0, kAfter = 1 };
  Side side(int64_t band, int64_t y) const {
    if (band > 0 && y < end(band - 1)) return Side::kBefore;
    if (band + 1 < bands_.count() && y >= begin(band + 1)) return Side::kAfter;
    return Side::kNone;
  }

  // (width, kChunk)
  T* sum(int64_t image, int64_t band, Side side, int64_t y, int64_t chunk) const {
    const bool after = side == Side::kAfter;
    const int64_t seam = after ? band : band - 1;
    const int64_t half = (image * (bands_.count() - 1) + seam) * 2 + (after ? 0 : 1);
    const int64_t row = (half * rows() + y - begin(seam + 1)) * chunks_ + chunk;
    return sums_.data() + row * row_size();
  }

  // Adds up both sides and stores them.
  void join(const Call& call, const Activation& grad_input) const {
    const int64_t seams = bands_.count() - 1;
    run_tasks(g_.batch * seams, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const int64_t image = task / seams, band = task % seams;
        for (int64_t y = begin(band + 1); y < end(band); ++y) {
          for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
            T* total = sum(image, band, Side::kAfter, y, chunk);
            const T* other = sum(image, band + 1, Side::kBefore, y, chunk);
            for (int64_t i = 0; i < row_size(); ++i) total[i] += other[i];
            grad_input.store(image, call.chunks[chunk].begin, y, 0, g_.width,
                             call.chunks[chunk].width, total, simd::kChunk, 1);
          }
        }
      }
    });
  }

 private:
  // Rows [begin, end) of the input are those that a band adds to.
  int64_t begin(int64_t band) const {
    return std::clamp<int64_t>(bands_.rows(band).begin * g_.stride[0] - g_.padding[0], 0,
                               g_.height);
  }
  int64_t end(int64_t band) const {
    const int64_t last = (bands_.rows(band).end - 1) * g_.stride[0] - g_.padding[0] +
                         (g_.kernel[0] - 1) * g_.dilation[0];
    return std::clamp<int64_t>(last + 1, 0, g_.height);
  }
  // Most rows of a seam.
  int64_t rows() const {
    const int64_t reach = (g_.kernel[0] - 1) * g_.dilation[0] + 1 - g_.stride[0];
    return std::clamp<int64_t>(reach, 0, g_.height);
  }
  int64_t row_size() const { return g_.width * simd::kChunk; }

  const Geometry<int64_t>& g_;
  const Bands& bands_;
  int64_t chunks_;
  AlignedBuffer<T> sums_;
};

// Into rows of the image itself.
template <typename T>
class RowSink final : public TapSink<T> {
 public:
  RowSink(const Call& call, const Strips& strips, int64_t part_size, int64_t out_rows,
          const at::Tensor& grad_input, const Seams<T>& seams)
      : call_(call),
        grad_input_(grad_input),
        seams_(seams),
        ring_(call.geometry, strips, part_size, out_rows) {}

  void start(int64_t image, const Part& part, int64_t band) {
    image_ = image;
    part_ = part;
    band_ = band;
  }

  T* const* rows(const Strip& strip, int64_t chunk) override {
    return ring_.taps(
        call_.geometry, strip, chunk - part_.begin, [&](int64_t y) { put_away(y); },
        [&](int64_t y) { clear(y); });
  }

  int64_t pixel_step() const override { return call_.geometry.stride[1] * simd::kChunk; }

  // The last row of a band has been added to.
  void finish_band() {
    ring_.leave_all([&](int64_t row) { put_away(row); });
  }

 private:
  void clear(int64_t y) { std::fill_n(ring_.row(y, 0), part_.size() * ring_.row_size(), T(0)); }

  void put_away(int64_t y) {
    const int64_t width = ring_.columns().width();
    const auto side = seams_.side(band_, y);
    for (int64_t i = 0; i < part_.size(); ++i) {
      const Chunk& chunk = call_.chunks[part_.begin + i];
      const T* row = ring_.row(y, i) + ring_.columns().left() * simd::kChunk;
      if (side == Seams<T>::Side::kNone) {
        grad_input_.store(image_, chunk.begin, y, 0, width, chunk.width, row, simd::kChunk, 1);
      } else {
        std::copy_n(row, width * simd::kChunk, seams_.sum(image_, band_, side, y, part_.begin + i));
      }
    }
  }

  const Call& call_;
  const Activation grad_input_;
  const Seams<T>& seams_;
  RowRing<T> ring_;
  int64_t image_ = 0, band_ = 0;
  Part part_{0, 0};
};

// Null when the input's gradient is not wanted.
template <typename T>
std::unique_ptr<RowSink<T>> make_row_sink(const Call& call, const Strips& strips, int64_t part_size,
                                          int64_t out_rows, const at::Tensor& grad_input,
                                          const Seams<T>& seams) {
  if (!grad_input.defined()) return nullptr;
  return std::make_unique<RowSink<T>>(call, strips, part_size, out_rows, grad_input, seams);
}

// Sums of one strip before they go where taps with image offsets or a mask send them.
template <typename T>
class SampledSink : public TapSink<T> {
 public:
  SampledSink(const Call& call, const Strips& strips)
      : call_(call),
        sums_(call.geometry.taps() * strips.most() * simd::kChunk),
        taps_(call.geometry.taps()) {}

  T* const* rows(const Strip& strip, int64_t /*chunk*/) override {
    const int64_t taps = call_.geometry.taps(), size = strip.pixels * simd::kChunk;
    std::fill_n(sums_.data(), taps * size, T(0));
    for (int64_t k = 0; k < taps; ++k) taps_[k] = sums_.data() + k * size;
    return taps_.data();
  }

  int64_t pixel_step() const override { return simd::kChunk; }

 protected:
  const Call& call_;
  AlignedBuffer<T> sums_;

 private:
  std::vector<T*> taps_;
};

// On to the input, as one plane.
template <typename T>
class PlaneSink final : public SampledSink<T> {
 public:
  PlaneSink(const Call& call, const Strips& strips, const Plane<T>& grad_input)
      : SampledSink<T>(call, strips), grad_input_(grad_input), plan_(call.geometry.taps()) {}

  void finish(const Strip& strip, int64_t chunk) override {
    const auto image = plan_image(this->call_, strip, this->call_.chunks[chunk],
                                  grad_input_.bordered_width(), plan_);
    simd::kernels<T>().scatter_image(image, this->sums_.data(), grad_input_.cells());
  }

 private:
  const Plane<T>& grad_input_;
  PlanBuffer<T> plan_;
};

// On to image offsets and mask, adding to what other chunks meant for them.
template <typename T>
class OffsetSink final : public SampledSink<T> {
 public:
  // `source` is what the taps saw: its rows() has been called for the same strip and chunk.
  OffsetSink(const Call& call, const Strips& strips, const PlaneSource<T>& source,
             const Gradients& gradients)
      : SampledSink<T>(call, strips),
        source_(source),
        gradients_(gradients),
        offset_(call.geometry.taps() * 2 * simd::kStrip),
        mask_(call.geometry.taps() * simd::kStrip) {}

  void finish(const Strip& strip, int64_t chunk) override {
    const Geometry<int64_t>& g = this->call_.geometry;
    const int64_t group = this->call_.chunks[chunk].image_offset_group;
    const bool offset = gradients_.image_offset.defined(), mask = gradients_.mask.defined();
    simd::kernels<T>().image_gradients(
        source_.sampled(), source_.plane().cells(), this->sums_.data(),
        {offset ? offset_.data() : nullptr, mask ? mask_.data() : nullptr});
    if (offset) {
      add_rows(offset_, gradients_.image_offset, strip, group * g.taps() * 2, g.taps() * 2);
    }
    if (mask) add_rows(mask_, gradients_.mask, strip, group * g.taps(), g.taps());
  }

 private:
  const PlaneSource<T>& source_;
  const Gradients& gradients_;
  AlignedBuffer<T> offset_, mask_;
};

}  // namespace mmdk::cpu
