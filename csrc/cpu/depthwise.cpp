#include "cpu/depthwise.h"

#include <ATen/ATen.h>

#include <vector>

#include "cpu/partition.h"
#include "cpu/row_ring.h"

namespace mmdk::cpu {
namespace {

using simd::kChunk;
using simd::kRowPixels;

int64_t chunks(const Geometry<int64_t>& g) { return (g.in_channels + kChunk - 1) / kChunk; }

int64_t bordered_cells(const Geometry<int64_t>& g) {
  return (g.scope_height + 2) * (g.scope_width + 2);
}

at::Tensor whole_chunks(const at::Tensor& per_channel, const Geometry<int64_t>& g,
                        std::vector<int64_t> padding) {
  padding.insert(padding.end(), {0, chunks(g) * kChunk - g.in_channels});
  return at::constant_pad_nd(per_channel, padding);
}

// (C, 1, S_h, S_w) -> (chunks, bordered cells, kChunk): a border of zeros around each scope,
// channels innermost.
at::Tensor pack(const at::Tensor& weight, const Geometry<int64_t>& g) {
  return whole_chunks(weight.squeeze(1), g, {1, 1, 1, 1})
      .view({chunks(g), kChunk, bordered_cells(g)})
      .transpose(1, 2)
      .contiguous();
}

at::Tensor unpack(const at::Tensor& packed, const Geometry<int64_t>& g) {
  return packed.view({chunks(g), bordered_cells(g), kChunk})
      .transpose(1, 2)
      .reshape({chunks(g) * kChunk, 1, g.scope_height + 2, g.scope_width + 2})
      .narrow(0, 0, g.in_channels)
      .narrow(2, 1, g.scope_height)
      .narrow(3, 1, g.scope_width);
}

// Output columns [x, x + pixels), at most kRowPixels, of one image.
struct Strip {
  int64_t image, x, pixels;
};

Columns input_columns(const Strip& strip, const Geometry<int64_t>& g) {
  return {strip.image, strip.x * g.stride[1] - g.padding[1],
          (strip.pixels - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1};
}

// Input rows from the first that a row of outputs reads to the last.
int64_t ring_rows(const Geometry<int64_t>& g) { return (g.kernel[0] - 1) * g.dilation[0] + 1; }

int64_t strips(const Geometry<int64_t>& g) { return (g.out_width + kRowPixels - 1) / kRowPixels; }

Strip strip_at(int64_t image, int64_t index, const Geometry<int64_t>& g) {
  const int64_t x = index * kRowPixels;
  return {image, x, std::min(kRowPixels, g.out_width - x)};
}

// From a chunk of a row of outputs to the next.
constexpr int64_t kOutputStride = kRowPixels * kChunk;

// What a thread works in: rows of input, the plan of one row of outputs, and that row.
template <typename T>
struct Workspace {
  RowRing<T> input, grad_input;
  AlignedBuffer<int32_t> cell;
  AlignedBuffer<T> value, fraction_y, fraction_x, along;
  AlignedBuffer<T> outputs;  // a row of them, or of their gradients: (chunks, kRowPixels, kChunk)

  Workspace(const Geometry<int64_t>& g, bool backward)
      : Workspace(g, backward, ring_rows(g),
                  input_columns({0, 0, std::min(kRowPixels, g.out_width)}, g).pixels) {}

 private:
  Workspace(const Geometry<int64_t>& g, bool backward, int64_t rows, int64_t columns)
      : input(rows, chunks(g), columns),
        grad_input(backward ? rows : 1, backward ? chunks(g) : 1, columns),
        cell(g.taps() * kRowPixels),
        value(g.taps() * 4 * kRowPixels),
        fraction_y(g.taps() * kRowPixels),
        fraction_x(g.taps() * kRowPixels),
        along(backward ? g.taps() * kRowPixels * 4 : 0),
        outputs(chunks(g) * kOutputStride) {}
};

template <typename T>
class DepthwiseCall {
 public:
  DepthwiseCall(const DepthwiseOperands& operands, const Geometry<int64_t>& g)
      : operands_(operands), g_(g), packed_(pack(operands.weight, g)) {
    bias_ = operands.bias.defined() ? whole_chunks(operands.bias, g, {})
                                    : at::zeros({chunks(g) * kChunk}, operands.weight.options());
  }

  // Rows [begin, end) of a strip.
  void forward(const Strip& strip, int64_t begin, int64_t end, Workspace<T>& work,
               const Activation& output) const {
    work.input.move_to(input_columns(strip, g_));
    for (int64_t y = begin; y < end; ++y) {
      for_each_chunk(strip, y, work, [&](int64_t chunk, const simd::DepthwiseRow<T>& row) {
        const T* bias = bias_.template const_data_ptr<T>() + chunk * kChunk;
        T* to = work.outputs.data() + chunk * kOutputStride;
        for (int64_t p = 0; p < strip.pixels; ++p) std::copy_n(bias, kChunk, to + p * kChunk);
        kernels_.depthwise_forward(row, to);
      });
      kernels_.store_row(pixel_row<T>(output, strip.image, y, strip.x, strip.pixels),
                         work.outputs.data(), kOutputStride);
    }
  }

  void backward(const Strip& strip, int64_t begin, int64_t end, Workspace<T>& work,
                const Activation& grad_output, const DepthwiseTargets& targets,
                T* grad_packed) const {
    work.input.move_to(input_columns(strip, g_));
    work.grad_input.move_to(input_columns(strip, g_));
    for (int64_t y = begin; y < end; ++y) {
      kernels_.load_row(work.outputs.data(), kOutputStride,
                        pixel_row<const T>(grad_output, strip.image, y, strip.x, strip.pixels));
      for_each_chunk(
          strip, y, work,
          [&](int64_t chunk, const simd::DepthwiseRow<T>& row) {
            backward_chunk(y, chunk, row, work, targets, grad_packed);
          },
          [&](int64_t group) { finish_group(strip, y, group, work, targets.kernel_offset); });
    }
    if (targets.input.defined()) work.grad_input.flush_all(Activation(targets.input));
  }

 private:
  // Calls f(chunk, row) for all chunks of a row of outputs, and then(group) after the last of each
  // offset group.
  template <typename F, typename Then>
  void for_each_chunk(const Strip& strip, int64_t y, Workspace<T>& work, const F& f,
                      const Then& then) const {
    const int64_t all = chunks(g_), groups = g_.kernel_offset_groups;
    std::vector<const T*> taps(g_.taps());
    for (int64_t group = 0; group < groups; ++group) {
      plan(strip, y, group, work);
      for (int64_t chunk = all * group / groups; chunk < all * (group + 1) / groups; ++chunk) {
        for_each_tap([&](int64_t k, int64_t i, int64_t column) {
          taps[k] = work.input.read(operands_.input, input_row(y, i), chunk) + column;
        });
        f(chunk, simd::DepthwiseRow<T>{
                     scope_plan(work), strip.pixels, g_.taps(), g_.stride[1] * kChunk,
                     g_.scope_width + 2, taps.data(),
                     packed_.template const_data_ptr<T>() + chunk * bordered_cells(g_) * kChunk});
      }
      then(group);
    }
  }

  template <typename F>
  void for_each_chunk(const Strip& strip, int64_t y, Workspace<T>& work, const F& f) const {
    for_each_chunk(strip, y, work, f, [](int64_t) {});
  }

  int64_t input_row(int64_t y, int64_t i) const {
    return y * g_.stride[0] - g_.padding[0] + i * g_.dilation[0];
  }

  // Calls f(k, kernel row, where the tap's first pixel is in an input row).
  template <typename F>
  void for_each_tap(const F& f) const {
    for (int64_t k = 0; k < g_.taps(); ++k) {
      f(k, k / g_.kernel[1], k % g_.kernel[1] * g_.dilation[1] * kChunk);
    }
  }

  void backward_chunk(int64_t y, int64_t chunk, const simd::DepthwiseRow<T>& row,
                      Workspace<T>& work, const DepthwiseTargets& targets, T* grad_packed) const {
    simd::DepthwiseGradients<T> to{work.outputs.data() + chunk * kOutputStride, nullptr, nullptr,
                                   nullptr};
    std::vector<T*> taps(g_.taps());
    if (targets.input.defined()) {
      const Activation grad_input(targets.input);
      for_each_tap([&](int64_t k, int64_t i, int64_t column) {
        taps[k] = work.grad_input.add(grad_input, input_row(y, i), chunk) + column;
      });
      to.grad_input = taps.data();
    }
    if (grad_packed) to.grad_weight = grad_packed + chunk * bordered_cells(g_) * kChunk;
    if (targets.kernel_offset.defined()) to.along = work.along.data();
    kernels_.depthwise_backward(row, to);
  }

  void plan(const Strip& strip, int64_t y, int64_t group, Workspace<T>& work) const {
    const at::Tensor& offset = operands_.kernel_offset;
    const bool per_image = offset.defined() && offset.size(2) == 1 && offset.size(3) == 1;
    simd::ScopePlanInput<T> input{
        nullptr,      per_image ? 1 : g_.pixels(),  per_image ? 0 : 1,
        strip.pixels, {g_.kernel[0], g_.kernel[1]}, {g_.scope_height, g_.scope_width}};
    if (offset.defined()) {
      const int64_t first = (strip.image * g_.kernel_offset_groups + group) * g_.taps() * 2;
      input.offset = offset.const_data_ptr<T>() + first * input.plane +
                     (y * g_.out_width + strip.x) * input.step;
    }
    kernels_.plan_scope(input, scope_plan(work));
  }

  static simd::ScopePlan<T> scope_plan(Workspace<T>& work) {
    return {work.cell.data(), work.value.data(), work.fraction_y.data(), work.fraction_x.data()};
  }

  // d/dy and d/dx of the bilinear weights, times the sums over channels; cells of the border are
  // zero and so are their sums.
  void finish_group(const Strip& strip, int64_t y, int64_t group, Workspace<T>& work,
                    const at::Tensor& gradient) const {
    if (!gradient.defined()) return;
    T* first = static_cast<T*>(gradient.data_ptr()) + y * g_.out_width + strip.x;
    for (int64_t k = 0; k < g_.taps(); ++k) {
      T* to = first +
              ((strip.image * g_.kernel_offset_groups + group) * g_.taps() + k) * 2 * g_.pixels();
      for (int64_t p = 0; p < strip.pixels; ++p) {
        const int64_t entry = k * kRowPixels + p;
        const T* along = &work.along[entry * 4];
        const T fy = work.fraction_y[entry], fx = work.fraction_x[entry];
        to[p] += (1 - fx) * (along[2] - along[0]) + fx * (along[3] - along[1]);
        to[g_.pixels() + p] += (1 - fy) * (along[1] - along[0]) + fy * (along[3] - along[2]);
      }
    }
    std::fill_n(work.along.data(), g_.taps() * kRowPixels * 4, T(0));
  }

  const DepthwiseOperands& operands_;
  const Geometry<int64_t>& g_;
  const at::Tensor packed_;
  at::Tensor bias_;
  const simd::Kernels<T>& kernels_ = simd::kernels<T>();
};

// Numbers in a ring of rows; far dilations would make it larger than any cache.
constexpr double kLargestRing = 1 << 21;

double ring_size(const Geometry<int64_t>& g) {
  const Strip widest{0, 0, std::min(kRowPixels, g.out_width)};
  return static_cast<double>(ring_rows(g)) * input_columns(widest, g).pixels * chunks(g) * kChunk;
}

// Bands for about this many tasks in all: rows at the edges of a band are loaded twice.
constexpr int64_t kTasks = 8;

}  // namespace

bool is_fused_depthwise(const Geometry<int64_t>& g, bool has_image_offset, bool has_mask) {
  if (!g.depthwise() || has_image_offset || has_mask) return false;
  // A chunk belongs to one offset group, and a cell's index fits 32 bits.
  const bool whole_groups =
      g.kernel_offset_groups == 1 || g.in_channels / g.kernel_offset_groups % kChunk == 0;
  return whole_groups && bordered_cells(g) < (int64_t{1} << 31) && ring_size(g) <= kLargestRing;
}

template <typename T>
void depthwise_forward(const DepthwiseOperands& operands, const Geometry<int64_t>& g,
                       const Activation& output) {
  const DepthwiseCall<T> call(operands, g);
  const int64_t per_image = strips(g);
  const int64_t bands =
      std::clamp<int64_t>(kTasks / std::max<int64_t>(g.batch * per_image, 1), 1, g.out_height);
  run_tasks(g.batch * per_image * bands, [&](int64_t begin, int64_t end) {
    Workspace<T> work(g, /*backward=*/false);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t band = task % bands, strip = task / bands;
      call.forward(strip_at(strip / per_image, strip % per_image, g), g.out_height * band / bands,
                   g.out_height * (band + 1) / bands, work, output);
    }
  });
}

template <typename T>
void depthwise_backward(const DepthwiseOperands& operands, const Geometry<int64_t>& g,
                        const Activation& grad_output, DepthwiseTargets& targets) {
  const DepthwiseCall<T> call(operands, g);
  const Bands bands(g, kTasks);
  const int64_t packed_size = chunks(g) * bordered_cells(g) * kChunk;
  at::Tensor partial;
  if (targets.weight.defined()) {
    partial =
        at::zeros({std::max<int64_t>(bands.count(), 1), packed_size}, operands.weight.options());
  }
  bands.run([&] { return Workspace<T>(g, /*backward=*/true); },
            [&](const Band& band, Workspace<T>& work) {
              T* grad_packed = partial.defined()
                                   ? static_cast<T*>(partial.data_ptr()) + band.index * packed_size
                                   : nullptr;
              for (int64_t index = 0; index < strips(g); ++index) {
                call.backward(strip_at(band.image, index, g), band.begin, band.end, work,
                              grad_output, targets, grad_packed);
              }
            });
  if (!targets.weight.defined()) return;
  at::Tensor total = partial[0];
  for (int64_t band = 1; band < partial.size(0); ++band) total.add_(partial[band]);
  targets.weight.copy_(unpack(total, g));
}

template void depthwise_forward<float>(const DepthwiseOperands&, const Geometry<int64_t>&,
                                       const Activation&);
template void depthwise_forward<double>(const DepthwiseOperands&, const Geometry<int64_t>&,
                                        const Activation&);
template void depthwise_backward<float>(const DepthwiseOperands&, const Geometry<int64_t>&,
                                        const Activation&, DepthwiseTargets&);
template void depthwise_backward<double>(const DepthwiseOperands&, const Geometry<int64_t>&,
                                         const Activation&, DepthwiseTargets&);

}  // namespace mmdk::cpu
