// The few input rows that a row of outputs reads, or adds to, channels innermost.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/activation.h"
#include "cpu/aligned_buffer.h"
#include "cpu/channels.h"
#include "cpu/partition.h"

namespace mmdk::cpu {

// Where taps of an image that is not deformed find their pixels: columns of a row that has margins
// of padding, no wider than a strip needs.
class Columns {
 public:
  Columns(const Geometry<int64_t>& g, const Strips& strips)
      : stride_(g.stride[1]),
        padding_(g.padding[1]),
        dilation_(g.dilation[1]),
        width_(g.width),
        span_((strips.most() - 1) * g.stride[1] + 1) {
    const int64_t last = (g.out_width - 1) * stride_ - padding_ + (g.kernel[1] - 1) * dilation_ + 1;
    left_ = std::min(padding_, span_ - 1);
    right_ = std::clamp<int64_t>(last - width_, 0, span_ - 1);
  }

  int64_t width() const { return width_; }
  int64_t left() const { return left_; }
  int64_t with_margins() const { return left_ + width_ + right_; }

  // Where the first pixel of taps in kernel column j is, counted from the left margin; -1 when all
  // their pixels are padding.
  int64_t find(const Strip& strip, int64_t j) const {
    const int64_t first = strip.x * stride_ - padding_ + j * dilation_;
    const int64_t last = first + (strip.pixels - 1) * stride_;
    return last < 0 || first >= width_ ? -1 : left_ + first;
  }

 private:
  int64_t stride_, padding_, dilation_, width_, span_;
  int64_t left_, right_;
};

// Rows of one image and part, each in a slot of its own until another row needs it.
template <typename T>
class RowRing {
 public:
  // Serves tap rows of `out_rows` rows of outputs at a time.
  RowRing(const Geometry<int64_t>& g, const Strips& strips, int64_t chunks, int64_t out_rows)
      : columns_(g, strips),
        chunks_(chunks),
        held_(std::min((g.kernel[0] - 1) * g.dilation[0] + 1 + (out_rows - 1) * g.stride[0],
                       g.height),
              kNone),
        data_(static_cast<int64_t>(held_.size()) * chunks * row_size()),
        first_chunk_(g.taps()),
        taps_(g.taps()) {}

  const Columns& columns() const { return columns_; }

  void forget_all() {
    std::fill(held_.begin(), held_.end(), kNone);
    strip_ = kNoStrip;
  }

  // Where each tap's first pixel of a strip is, of one chunk; null where all of them are padding.
  // Calls leave(y) for rows that have to
  // make place and enter(y) for those that come in their stead.
  template <typename Leave, typename Enter>
  T* const* taps(const Geometry<int64_t>& g, const Strip& strip, int64_t chunk, const Leave& leave,
                 const Enter& enter) {
    if (strip.y != strip_.y || strip.x != strip_.x) {
      strip_ = strip;
      find_first_chunk(g, leave, enter);
    }
    for (size_t k = 0; k < taps_.size(); ++k) {
      taps_[k] = first_chunk_[k] == nullptr ? nullptr : first_chunk_[k] + chunk * row_size();
    }
    return taps_.data();
  }

  template <typename Leave>
  void leave_all(const Leave& leave) {
    for (const int64_t y : held_) {
      if (y != kNone) leave(y);
    }
    forget_all();
  }

  // (columns with margins, kChunk) of one chunk of a row that is held.
  T* row(int64_t y, int64_t chunk) const {
    const int64_t slot = y % static_cast<int64_t>(held_.size());
    return data_.data() + (slot * chunks_ + chunk) * row_size();
  }

  int64_t row_size() const { return columns_.with_margins() * simd::kChunk; }

 private:
  static constexpr int64_t kNone = -1;
  static constexpr Strip kNoStrip{0, kNone, 0, 0};

  template <typename Leave, typename Enter>
  void find_first_chunk(const Geometry<int64_t>& g, const Leave& leave, const Enter& enter) {
    for (int64_t i = 0; i < g.kernel[0]; ++i) {
      const int64_t y = strip_.y * g.stride[0] - g.padding[0] + i * g.dilation[0];
      const bool exists = y >= 0 && y < g.height;
      if (exists) hold(y, leave, enter);
      for (int64_t j = 0; j < g.kernel[1]; ++j) {
        const int64_t column = columns_.find(strip_, j), k = i * g.kernel[1] + j;
        first_chunk_[k] = exists && column >= 0 ? row(y, 0) + column * simd::kChunk : nullptr;
      }
    }
  }

  template <typename Leave, typename Enter>
  void hold(int64_t y, const Leave& leave, const Enter& enter) {
    int64_t& held = held_[y % static_cast<int64_t>(held_.size())];
    if (held == y) return;
    if (held != kNone) leave(held);
    held = y;
    enter(y);
  }

  Columns columns_;
  int64_t chunks_;
  std::vector<int64_t> held_;
  AlignedBuffer<T> data_;
  Strip strip_ = kNoStrip;
  std::vector<T*> first_chunk_, taps_;
};

}  // namespace mmdk::cpu
