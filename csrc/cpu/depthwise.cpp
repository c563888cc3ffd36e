#include "cpu/depthwise.h"

#include <memory>
#include <vector>

#include "cpu/depthwise_weights.h"
#include "cpu/offset_sums.h"
#include "cpu/regions.h"
#include "cpu/tap_sink.h"
#include "cpu/tap_source.h"

namespace mmdk::cpu {
namespace {

// Channels that share a plan and the rows they are read from.
constexpr int64_t kPartChannels = 128;
// Fewer pixels at a time where the taps' values have to be kept.
constexpr int64_t kRowPixels = 32;
constexpr int64_t kSampledPixels = 16;

// What all threads read.
template <typename T>
struct Weights {
  PackedLayout layout;
  at::Tensor packed, bias;

  explicit Weights(const Call& call)
      : layout(call),
        packed(pack<T>(call.weight, layout)),
        bias(at::zeros({static_cast<int64_t>(call.chunks.size()), simd::kChunk},
                       call.weight.options())) {
    if (!call.bias.defined()) return;
    for (size_t i = 0; i < call.chunks.size(); ++i) {
      bias[i]
          .narrow(0, 0, call.chunks[i].width)
          .copy_(call.bias.narrow(0, call.chunks[i].begin, call.chunks[i].width));
    }
  }
};

// The work on one chunk of one strip, and what one thread needs for it.
template <typename T>
class Worker {
 public:
  Worker(const Call& call, const Weights<T>& weights)
      : call_(call),
        weights_(weights),
        plan_(call.geometry.taps()),
        outputs_(simd::kStrip * simd::kChunk),
        offset_sums_(call.geometry.taps() * 2 * simd::kStrip) {}

  void forward(const Strip& strip, int64_t chunk, TapSource<T>& source, const Activation& output) {
    const simd::TapRows<T> taps = source.rows(strip, chunk);
    const T* bias = weights_.bias.template const_data_ptr<T>() + chunk * simd::kChunk;
    const auto direct = in_place(output, strip, chunk);
    const simd::ChunkRow<T> to =
        direct.data != nullptr ? direct : simd::ChunkRow<T>{outputs_.data(), simd::kChunk};
    if (call_.is_rigid()) {
      kernels_.rigid_forward(taps, weight(strip, chunk), bias, to);
    } else {
      kernels_.depthwise_forward(taps, scope(strip, chunk), bias, to);
    }
    if (direct.data != nullptr) return;
    output.store(strip.image, call_.chunks[chunk].begin, strip.y, strip.x, strip.pixels,
                 call_.chunks[chunk].width, outputs_.data(), simd::kChunk, 1);
  }

  // Gradients that are null are not wanted; grad_taps and grad_step are like `taps`, grad_weight is
  // of all chunks, grad_offset like kernel_offset.
  void backward(const Strip& strip, int64_t chunk, const simd::TapRows<T>& taps,
                const Activation& grad_output, T* const* grad_taps, int64_t grad_step,
                T* grad_weight, const at::Tensor& grad_offset) {
    const simd::DepthwiseGradients<T> to{
        load_grad(grad_output, strip, chunk), grad_taps, grad_step,
        grad_weight == nullptr ? nullptr : grad_weight + chunk * weights_.layout.chunk_size(),
        grad_offset.defined() ? offset_sums_.data() : nullptr};
    if (call_.is_rigid()) {
      kernels_.rigid_backward(taps, weight(strip, chunk), to);
      return;
    }
    kernels_.depthwise_backward(taps, scope(strip, chunk), to);
    if (grad_offset.defined()) {
      const int64_t channels = call_.geometry.taps() * 2;
      add_rows(offset_sums_, grad_offset, strip, call_.chunks[chunk].kernel_offset_group * channels,
               channels);
    }
  }

 private:
  const T* weight(const Strip& strip, int64_t chunk) const {
    return weights_.packed.template const_data_ptr<T>() +
           call_.weight_of(strip.image) * weights_.layout.size() +
           chunk * weights_.layout.chunk_size();
  }

  simd::SampledScope<T> scope(const Strip& strip, int64_t chunk) {
    plan_.move_to(call_, strip, call_.chunks[chunk].kernel_offset_group);
    return {plan_.view(), weight(strip, chunk), weights_.layout.bordered_width()};
  }

  // The pixels of an activation themselves, where they lie as the kernels want them, or else null.
  simd::ChunkRow<T> in_place(const Activation& activation, const Strip& strip,
                             int64_t chunk) const {
    const Chunk& channels = call_.chunks[chunk];
    const auto numbers = activation.at(strip.image, channels.begin, strip.y, strip.x);
    const bool fits = numbers.storage == simd::Storage::kSame && numbers.channel_stride == 1 &&
                      channels.width == simd::kChunk;
    return {fits ? static_cast<T*>(numbers.data) : nullptr, numbers.pixel_stride};
  }

  simd::ChunkRow<const T> load_grad(const Activation& grad_output, const Strip& strip,
                                    int64_t chunk) {
    const auto direct = in_place(grad_output, strip, chunk);
    if (direct.data != nullptr) return {direct.data, direct.step};
    grad_output.load(strip.image, call_.chunks[chunk].begin, strip.y, strip.x, strip.pixels,
                     call_.chunks[chunk].width, outputs_.data(), simd::kChunk, 1);
    return {outputs_.data(), simd::kChunk};
  }

  const Call& call_;
  const Weights<T>& weights_;
  ScopePlan<T> plan_;
  AlignedBuffer<T> outputs_, offset_sums_;
  const simd::Kernels<T>& kernels_ = simd::kernels<T>();
};

// Sums of the gradient of packed weights: those of one task, or of one task and image where images
// have weights of their own.
template <typename T>
class WeightSums {
 public:
  // Tasks of one image, or of one image group, are `tasks_per_group` neighbours.
  WeightSums(const Call& call, const PackedLayout& layout, int64_t groups, int64_t tasks_per_group)
      : per_image_(call.weight.size(0) > 1),
        tasks_per_group_(tasks_per_group),
        sums_(at::zeros(
            {(per_image_ ? call.geometry.batch : groups) * tasks_per_group, layout.size()},
            call.weight.options())) {}

  T* of(int64_t image, int64_t group, int64_t task) const {
    const int64_t row = (per_image_ ? image : group) * tasks_per_group_ + task;
    return static_cast<T*>(sums_.data_ptr()) + row * sums_.size(1);
  }

  // (weights, packed)
  at::Tensor total() const {
    const int64_t weights = per_image_ ? sums_.size(0) / tasks_per_group_ : 1;
    const at::Tensor by_weight = sums_.view({weights, sums_.size(0) / weights, sums_.size(1)});
    at::Tensor total = by_weight.select(1, 0).clone();
    for (int64_t i = 1; i < by_weight.size(1); ++i) total.add_(by_weight.select(1, i));
    return total;
  }

 private:
  bool per_image_;
  int64_t tasks_per_group_;
  at::Tensor sums_;
};

template <typename T>
void forward_rows(const Call& call, const Weights<T>& weights, const Activation& output) {
  struct Thread {
    RowSource<T> source;
    Worker<T> worker;
  };
  const Strips strips(call.geometry, kRowPixels);
  const std::vector<Part> parts = make_parts(call.chunks, kPartChannels);
  const Bands bands(call.geometry, static_cast<int64_t>(parts.size()));
  for_each_region(
      bands, static_cast<int64_t>(parts.size()),
      [&] {
        return Thread{RowSource<T>(call, strips, largest(parts), 1), Worker<T>(call, weights)};
      },
      [&](Thread& thread, const Region& region) {
        const Part& part = parts[region.part];
        for (int64_t image = region.images.begin; image < region.images.end; ++image) {
          thread.source.start(image, part);
          for (int64_t y = region.rows.begin; y < region.rows.end; ++y) {
            for (int64_t i = 0; i < strips.count(); ++i) {
              for (int64_t chunk = part.begin; chunk < part.end; ++chunk) {
                thread.worker.forward(strips.at(image, y, i), chunk, thread.source, output);
              }
            }
          }
        }
      });
}

template <typename T>
void forward_planes(const Call& call, const Weights<T>& weights, const Activation& output) {
  const Strips strips(call.geometry, kSampledPixels);
  for_each_plane<T>(
      call, [&](const Plane<T>& plane, int64_t image, int64_t chunk, int64_t, const Range& rows) {
        PlaneSource<T> source(call, strips, plane);
        Worker<T> worker(call, weights);
        for (int64_t y = rows.begin; y < rows.end; ++y) {
          for (int64_t i = 0; i < strips.count(); ++i) {
            worker.forward(strips.at(image, y, i), chunk, source, output);
          }
        }
      });
}

template <typename T>
void backward_rows(const Call& call, const Weights<T>& weights, const Activation& grad_output,
                   const Gradients& to) {
  struct Thread {
    RowSource<T> source;
    std::unique_ptr<RowSink<T>> sink;  // null when the input's gradient is not wanted
    Worker<T> worker;
  };
  const Strips strips(call.geometry, kRowPixels);
  const std::vector<Part> parts = make_parts(call.chunks, kPartChannels);
  const Bands bands(call.geometry, static_cast<int64_t>(parts.size()));
  const WeightSums<T> weight_sums(call, weights.layout, bands.image_groups(), bands.count());
  const OffsetSums offset_sums(call, parts, to.kernel_offset);
  const Seams<T> seams(call, bands, to.input.defined());
  for_each_region(
      bands, static_cast<int64_t>(parts.size()),
      [&] {
        return Thread{RowSource<T>(call, strips, largest(parts), 1),
                      make_row_sink<T>(call, strips, largest(parts), 1, to.input, seams),
                      Worker<T>(call, weights)};
      },
      [&](Thread& thread, const Region& region) {
        const Part& part = parts[region.part];
        for (int64_t image = region.images.begin; image < region.images.end; ++image) {
          T* grad_weight = to.weight.defined()
                               ? weight_sums.of(image, region.image_group, region.band)
                               : nullptr;
          thread.source.start(image, part);
          if (thread.sink) thread.sink->start(image, part, region.band);
          for (int64_t y = region.rows.begin; y < region.rows.end; ++y) {
            for (int64_t i = 0; i < strips.count(); ++i) {
              const Strip strip = strips.at(image, y, i);
              for (int64_t chunk = part.begin; chunk < part.end; ++chunk) {
                T* const* grad_taps = thread.sink ? thread.sink->rows(strip, chunk) : nullptr;
                thread.worker.backward(strip, chunk, thread.source.rows(strip, chunk), grad_output,
                                       grad_taps, thread.sink ? thread.sink->pixel_step() : 0,
                                       grad_weight,
                                       offset_sums.of(region.part, call.chunks[chunk]));
              }
            }
          }
          if (thread.sink) thread.sink->finish_band();
        }
      });
  if (to.input.defined()) seams.join(call, Activation(to.input));
  if (to.weight.defined()) unpack<T>(weight_sums.total(), weights.layout, to.weight);
  offset_sums.join();
}

// Any output pixel may reach any place of the input: a task owns channels.
template <typename T>
void backward_planes_input(const Call& call, const Weights<T>& weights,
                           const Activation& grad_output, const Gradients& to) {
  const Strips strips(call.geometry, kSampledPixels);
  const Activation grad_input(to.input);
  const int64_t chunks = static_cast<int64_t>(call.chunks.size());
  run_tasks(call.geometry.batch * chunks, [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    Plane<T> plane(call.geometry);
    PlaneSink<T> sink(call, strips, plane);
    Worker<T> worker(call, weights);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / chunks, chunk = task % chunks;
      plane.fill_zero();
      for (int64_t y = 0; y < call.geometry.out_height; ++y) {
        for (int64_t i = 0; i < strips.count(); ++i) {
          const Strip strip = strips.at(image, y, i);
          T* const* grad_taps = sink.rows(strip, chunk);
          // What the taps saw does not matter to the input's gradient.
          const simd::TapRows<T> unread{grad_taps, sink.pixel_step(), strip.pixels,
                                        call.geometry.taps()};
          worker.backward(strip, chunk, unread, grad_output, grad_taps, sink.pixel_step(), nullptr,
                          {});
          sink.finish(strip, chunk);
        }
      }
      plane.store(grad_input, image, call.chunks[chunk]);
    }
  });
}

template <typename T>
void backward_planes_others(const Call& call, const Weights<T>& weights,
                            const Activation& grad_output, const Gradients& to) {
  const Strips strips(call.geometry, kSampledPixels);
  const WeightSums<T> weight_sums(call, weights.layout, 1, kPlaneShares);
  const bool wants_offsets = to.image_offset.defined() || to.mask.defined();
  for_each_plane<T>(call, [&](const Plane<T>& plane, int64_t image, int64_t chunk, int64_t task,
                              const Range& rows) {
    PlaneSource<T> source(call, strips, plane);
    OffsetSink<T> sink(call, strips, source, to);
    Worker<T> worker(call, weights);
    T* grad_weight = to.weight.defined() ? weight_sums.of(image, 0, task) : nullptr;
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      for (int64_t i = 0; i < strips.count(); ++i) {
        const Strip strip = strips.at(image, y, i);
        const simd::TapRows<T> taps = source.rows(strip, chunk);
        T* const* grad_taps = wants_offsets ? sink.rows(strip, chunk) : nullptr;
        worker.backward(strip, chunk, taps, grad_output, grad_taps, sink.pixel_step(), grad_weight,
                        to.kernel_offset);
        if (wants_offsets) sink.finish(strip, chunk);
      }
    }
  });
  if (to.weight.defined()) unpack<T>(weight_sums.total(), weights.layout, to.weight);
}

}  // namespace

template <typename T>
void depthwise_forward(const Call& call, const Activation& output) {
  const Weights<T> weights(call);
  if (call.samples_image()) {
    forward_planes(call, weights, output);
  } else {
    forward_rows(call, weights, output);
  }
}

template <typename T>
void depthwise_backward(const Call& call, const Activation& grad_output, const Gradients& to) {
  const Weights<T> weights(call);
  if (!call.samples_image()) {
    backward_rows(call, weights, grad_output, to);
    return;
  }
  if (to.input.defined()) backward_planes_input(call, weights, grad_output, to);
  if (to.weight.defined() || to.kernel_offset.defined() || to.image_offset.defined() ||
      to.mask.defined()) {
    backward_planes_others(call, weights, grad_output, to);
  }
}

template void depthwise_forward<float>(const Call&, const Activation&);
template void depthwise_forward<double>(const Call&, const Activation&);
template void depthwise_backward<float>(const Call&, const Activation&, const Gradients&);
template void depthwise_backward<double>(const Call&, const Activation&, const Gradients&);

}  // namespace mmdk::cpu
