// One tile of output pixels in a dense or grouped call, and one part of the input channels.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "cpu/plan_buffer.h"
#include "cpu/tap_sink.h"
#include "cpu/tap_source.h"

namespace mmdk::cpu {

// Output pixels: `rows` rows of a strip.
struct Tile {
  Strip strip;  // the first row
  int64_t rows;

  int64_t pixels() const { return rows * strip.pixels; }
  Strip row(int64_t r) const { return {strip.image, strip.y + r, strip.x, strip.pixels}; }
};

// How a call's output is cut into tiles.
class Tiles {
 public:
  Tiles(const Call& call, const std::vector<Part>& parts)
      : strips_(call.geometry, simd::kStrip), z_row_(0) {
    for (const Part& part : parts) {
      z_row_ = std::max(z_row_, channels(call, part) * call.cells());
      most_groups_ = std::max(most_groups_,
                              call.chunks[part.end - 1].group - call.chunks[part.begin].group + 1);
    }
    // A matrix product wants many pixels, Z should not outgrow the caches: about a MiB of floats.
    const int64_t pixels = std::clamp<int64_t>((int64_t{1} << 18) / z_row_, 64, 256);
    rows_ = std::clamp<int64_t>((pixels + strips_.most() / 2) / strips_.most(), 1,
                                call.geometry.out_height);
    // Input rows between those that are read would be held with them.
    const Geometry<int64_t>& g = call.geometry;
    if (g.stride[0] > (g.kernel[0] - 1) * g.dilation[0] + 1) rows_ = 1;
  }

  static int64_t channels(const Call& call, const Part& part) {
    const Chunk &first = call.chunks[part.begin], &last = call.chunks[part.end - 1];
    return last.begin + last.width - first.begin;
  }

  const Strips& strips() const { return strips_; }
  int64_t rows() const { return rows_; }
  int64_t most_pixels() const { return rows_ * strips_.most(); }
  int64_t most_groups() const { return most_groups_; }
  int64_t largest_z() const { return most_pixels() * z_row_; }

  template <typename F>
  void for_each(int64_t image, const Range& rows, const F& f) const {
    for (int64_t y = rows.begin; y < rows.end; y += rows_) {
      for (int64_t i = 0; i < strips_.count(); ++i) {
        f(Tile{strips_.at(image, y, i), std::min(rows_, rows.end - y)});
      }
    }
  }

 private:
  Strips strips_;
  int64_t z_row_, rows_, most_groups_ = 1;
};

// Channels of a part so that one pixel's sampled data make a matrix product of about 1024 terms.
inline std::vector<Part> dense_parts(const Call& call) {
  return make_parts(call.chunks, std::max<int64_t>(1024 / call.cells(), simd::kChunk));
}

template <typename T>
at::Tensor as_matrix(const AlignedBuffer<T>& buffer, int64_t rows, int64_t columns) {
  return at::from_blob(buffer.data(), {rows, columns},
                       at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value));
}

// Convolution groups that a part's channels belong to.
inline Range groups_of(const Call& call, const Part& part) {
  return {call.chunks[part.begin].group, call.chunks[part.end - 1].group + 1};
}

// What of a weight (C_out, ...), or of its gradient, belongs to a part: (groups, outputs of a
// group, channels of a group * cells).
inline at::Tensor part_of_weight(const Call& call, const at::Tensor& weight, const Part& part) {
  const Geometry<int64_t>& g = call.geometry;
  const Range groups = groups_of(call, part);
  const int64_t first = call.chunks[part.begin].begin - groups.begin * g.group_channels;
  return weight.view({g.groups, g.out_channels / g.groups, g.group_channels * call.cells()})
      .narrow(0, groups.begin, groups.size())
      .narrow(2, first * call.cells(), Tiles::channels(call, part) / groups.size() * call.cells());
}

template <typename T>
class DenseTile {
 public:
  DenseTile(const Call& call, const Tiles& tiles)
      : call_(call),
        outputs_of_group_(call.geometry.out_channels / call.geometry.groups),
        plan_(call.geometry.taps()),
        coefficients_(call.is_rigid()
                          ? 0
                          : simd::kStrip * call.geometry.taps() * simd::padded_cells(call.cells())),
        // Vectors of cells may be read whose end lies beyond that of the last channel.
        z_(tiles.largest_z() + simd::kChunk),
        outputs_(tiles.most_pixels() * tiles.most_groups() * outputs_of_group_),
        scratch_((call.weight.size(3) + 2) * (call.weight.size(4) + 2) * simd::kChunk),
        offset_sums_(call.geometry.taps() * 2 * simd::kStrip) {}

  // Sets the outputs (outputs of the part's groups, pixels) to their bias.
  void begin_outputs(const Tile& tile, const Part& part) {
    const int64_t pixels = tile.pixels();
    const T* bias = data_or_null<const T>(call_.bias);
    for (int64_t o = 0; o < outputs_of(part); ++o) {
      std::fill_n(outputs_.data() + o * pixels, pixels,
                  bias == nullptr ? T(0) : bias[first_output(part) + o]);
    }
  }

  // Outputs, or their gradients: rows from y on are rows from y - first_y on of an activation.
  void load_outputs(const Tile& tile, const Part& part, const Activation& from, int64_t image,
                    int64_t first_y = 0) {
    for (int64_t r = 0; r < tile.rows; ++r) {
      from.load(image, first_output(part), tile.strip.y + r - first_y, tile.strip.x,
                tile.strip.pixels, outputs_of(part), outputs_.data() + r * tile.strip.pixels, 1,
                tile.pixels());
    }
  }
  void store_outputs(const Tile& tile, const Part& part, const Activation& to, int64_t image,
                     int64_t first_y = 0) const {
    for (int64_t r = 0; r < tile.rows; ++r) {
      to.store(image, first_output(part), tile.strip.y + r - first_y, tile.strip.x,
               tile.strip.pixels, outputs_of(part), outputs_.data() + r * tile.strip.pixels, 1,
               tile.pixels());
    }
  }

  // Fills Z with what the part sees.
  void sample(const Tile& tile, const Part& part, TapSource<T>& source) {
    const int64_t step = z_step(part);
    for_each_chunk(tile, part, [&](const Strip& strip, int64_t chunk, int64_t first_number) {
      const simd::TapRows<T> taps = source.rows(strip, chunk);
      const int64_t channels = call_.chunks[chunk].width;
      T* z = z_.data() + first_number;
      if (call_.is_rigid()) {
        kernels_.collect_tile(taps, channels, z, step);
      } else {
        spread(strip, chunk);
        kernels_.sample_tile(taps, coefficients_.data(), call_.cells(), channels, z, step);
      }
    });
  }

  // outputs += W . Z^T
  void add_products(const Tile& tile, const Part& part) {
    const at::Tensor all = weight(tile, part);
    for_each_group(tile, part, [&](int64_t i, at::Tensor z, at::Tensor outputs) {
      if (is_narrow()) {
        kernels_.products(sizes(z, all, outputs), data<T>(z), data<T>(all[i]), data<T>(outputs));
      } else {
        outputs.addmm_(all[i], z.t());
      }
    });
  }

  // grad_weight, like part_of_weight(), += grad_outputs . Z
  void add_weight_gradient(const Tile& tile, const Part& part, const at::Tensor& grad_weight) {
    for_each_group(tile, part, [&](int64_t i, at::Tensor z, at::Tensor outputs) {
      at::Tensor grad = grad_weight[i];
      if (is_narrow()) {
        kernels_.products_by_weight(sizes(z, grad_weight, outputs), data<T>(z), data<T>(outputs),
                                    data<T>(grad));
      } else {
        grad.addmm_(outputs, z);
      }
    });
  }

  // Replaces Z by its gradient.
  void backward_products(const Tile& tile, const Part& part) {
    const at::Tensor all = weight(tile, part);
    for_each_group(tile, part, [&](int64_t i, at::Tensor z, at::Tensor outputs) {
      if (is_narrow()) {
        kernels_.products_by_z(sizes(z, all, outputs), data<T>(outputs), data<T>(all[i]),
                               data<T>(z));
      } else {
        at::mm_out(z, outputs.t(), all[i]);
      }
    });
  }

  // Hands Z's gradient on; `source` and `sink` are null when not needed, grad_offset(chunk) is like
  // kernel_offset or undefined.
  template <typename GradOffset>
  void distribute(const Tile& tile, const Part& part, TapSource<T>* source, TapSink<T>* sink,
                  const GradOffset& grad_offset) {
    const Geometry<int64_t>& g = call_.geometry;
    const int64_t step = z_step(part);
    for_each_chunk(tile, part, [&](const Strip& strip, int64_t chunk, int64_t first_number) {
      const at::Tensor& offset = grad_offset(chunk);
      T* const* grad_taps = sink == nullptr ? nullptr : sink->rows(strip, chunk);
      // Without a source nothing is read: just the shape matters.
      const simd::TapRows<T> taps =
          source != nullptr
              ? source->rows(strip, chunk)
              : simd::TapRows<T>{grad_taps, sink->pixel_step(), strip.pixels, g.taps()};
      const simd::TileGradients<T> to{z_.data() + first_number,
                                      step,
                                      call_.chunks[chunk].width,
                                      {call_.weight.size(3), call_.weight.size(4)},
                                      scratch_.data(),
                                      grad_taps,
                                      sink == nullptr ? 0 : sink->pixel_step(),
                                      offset.defined() ? offset_sums_.data() : nullptr};
      if (call_.is_rigid()) {
        kernels_.collect_tile_backward(taps, to);
      } else {
        const int64_t group = call_.chunks[chunk].kernel_offset_group;
        plan_.move_to(call_, strip, group);
        kernels_.sample_tile_backward(taps, {plan_.view(), nullptr, g.scope_width + 2}, to);
        if (offset.defined()) {
          add_rows(offset_sums_, offset, strip, group * g.taps() * 2, g.taps() * 2);
        }
      }
      if (sink != nullptr) sink->finish(strip, chunk);
    });
  }

 private:
  // Calls f(row of the tile, chunk, the first of their numbers in Z).
  template <typename F>
  void for_each_chunk(const Tile& tile, const Part& part, const F& f) {
    const int64_t first_channel = call_.chunks[part.begin].begin;
    for (int64_t r = 0; r < tile.rows; ++r) {
      for (int64_t chunk = part.begin; chunk < part.end; ++chunk) {
        f(tile.row(r), chunk,
          r * tile.strip.pixels * z_step(part) +
              (call_.chunks[chunk].begin - first_channel) * call_.cells());
      }
    }
  }

  int64_t z_step(const Part& part) const { return Tiles::channels(call_, part) * call_.cells(); }

  void spread(const Strip& strip, int64_t chunk) {
    const Geometry<int64_t>& g = call_.geometry;
    if (!plan_.move_to(call_, strip, call_.chunks[chunk].kernel_offset_group)) return;
    const int64_t scope[2] = {g.scope_height, g.scope_width};
    kernels_.spread_plan(plan_.view(), scope, strip.pixels, g.taps(), coefficients_.data());
  }

  // Calls f(i, Z, outputs) for each group of the part: (pixels, channels of a group * cells) and
  // (outputs of a group, pixels).
  template <typename F>
  void for_each_group(const Tile& tile, const Part& part, const F& f) const {
    const int64_t groups = groups_of(call_, part).size(), terms = z_step(part) / groups;
    const at::Tensor z = as_matrix(z_, tile.pixels(), z_step(part));
    const at::Tensor outputs = as_matrix(outputs_, outputs_of(part), tile.pixels());
    for (int64_t i = 0; i < groups; ++i) {
      f(i, z.narrow(1, i * terms, terms),
        outputs.narrow(0, i * outputs_of_group_, outputs_of_group_));
    }
  }

  // Too few outputs for a BLAS, whose own work for each product is then most of it.
  bool is_narrow() const { return outputs_of_group_ <= 16; }
  static simd::Products<T> sizes(const at::Tensor& z, const at::Tensor& weight,
                                 const at::Tensor& outputs) {
    return {z.size(0),   outputs.size(0),  z.size(1),
            z.stride(0), weight.stride(1), outputs.stride(0)};
  }

  int64_t first_output(const Part& part) const {
    return groups_of(call_, part).begin * outputs_of_group_;
  }
  int64_t outputs_of(const Part& part) const {
    return groups_of(call_, part).size() * outputs_of_group_;
  }
  at::Tensor weight(const Tile& tile, const Part& part) const {
    return part_of_weight(call_, call_.weight[call_.weight_of(tile.strip.image)], part);
  }

  const Call& call_;
  int64_t outputs_of_group_;
  ScopePlan<T> plan_;
  AlignedBuffer<T> coefficients_, z_, outputs_, scratch_, offset_sums_;
  const simd::Kernels<T>& kernels_ = simd::kernels<T>();
};

}  // namespace mmdk::cpu
