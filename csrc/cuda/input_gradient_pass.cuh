// Launches input_gradient.cuh, over all outputs or some at a time.
#pragma once

#include <ATen/Context.h>

#include "cuda/call.h"
#include "cuda/input_gradient.cuh"

namespace mmdk::cuda {

template <typename T, bool dense>
class InputGradientPass {
 public:
  using A = at::opmath_type<T>;

  // Channels whose sums make an access of 16 bytes.
  static constexpr int kVector = sizeof(A) == 8 ? 1 : 4;

  // `vectors`: whether gradients lie at multiples of kVector channels.
  InputGradientPass(const Call& call, bool vectors)
      : call_(call),
        vectors_(vectors),
        device_(Device::current()),
        sums_(at::zeros({call.geometry.batch, call.geometry.height, call.geometry.width,
                         call.geometry.in_channels},
                        call.weight.options())) {}

  // Adds what comes back from `outputs`.
  void run(const PixelGrid& outputs, const Gradients<T>& gradients) const {
    if (vectors_) {
      run<kVector>(outputs, gradients);
    } else {
      run<1>(outputs, gradients);
    }
  }

  // (N, C, H, W), channels innermost.
  at::Tensor finish() const { return sums_.permute({0, 3, 1, 2}); }

 private:
  template <int N>
  void run(const PixelGrid& outputs, const Gradients<T>& gradients) const {
    with_look(call_.look, [&](auto look) {
      if constexpr (look.value == Look::kScope) {
        // Depthwise calls of this kind are sums of their own: depthwise_sums.h.
        if constexpr (dense) add_from_columns<N>(outputs, gradients);
      } else if (at::globalContext().deterministicAlgorithms()) {
        for_each_part(outputs,
                      [&](const PixelGrid& part) { add_sorted<N, look.value>(part, gradients); });
      } else {
        scatter<N, look.value>(outputs, gradients);
      }
    });
  }

  template <int N>
  void add_from_columns(const PixelGrid& outputs, const Gradients<T>& gradients) const {
    const PixelGrid reached = inputs_of(outputs);
    if (reached.pixels == 0) return;
    const Launch launched = plan_launch(
        call_.geometry, device_, N, kWarp, 4, 0,
        [&](const Threads&) { return SharedBytes{0, Plan<A, Look::kScope, true>::bytes(1)}; });
    const auto arguments = make_arguments(launched, reached, gradients);
    launch(columns_input_gradient<T, N>, Block::count(arguments.runs, arguments.channels),
           launched.channels.threads().block(), launched.shared_bytes, arguments);
  }

  template <int N, Look look>
  void scatter(const PixelGrid& outputs, const Gradients<T>& gradients) const {
    const Launch launched =
        plan_launch(call_.geometry, device_, N, kWarp, 4, 0, [&](const Threads& threads) {
          return SharedBytes{SharedRows<A, N>::bytes(dense ? 0 : gradients.rows, threads.lanes),
                             Plan<A, look, true>::bytes(1)};
        });
    const auto arguments = make_arguments(launched, outputs, gradients);
    launch(scatter_input_gradient<T, N, look, dense>,
           Block::count(arguments.runs, arguments.channels), launched.channels.threads().block(),
           launched.shared_bytes, arguments);
  }

  // Calls f with parts of the outputs whose look-ups are few enough to sort: sorting takes memory,
  // a few dozen bytes for each.
  template <typename F>
  void for_each_part(const PixelGrid& outputs, const F& f) const {
    const int64_t most = device_.cache_bytes / 4;
    const int64_t per_pixel = call_.geometry.image_offset_groups * call_.geometry.taps();
    const int64_t pixels = std::max<int64_t>(most / per_pixel, 1);
    const int64_t images = std::max<int64_t>(pixels / outputs.pixels, 1);
    const int64_t step = std::min(pixels, outputs.pixels);
    for (int64_t image = 0; image < outputs.images; image += images) {
      for (int64_t first = 0; first < outputs.pixels; first += step) {
        f(PixelGrid{outputs.first_image + image, std::min(images, outputs.images - image),
                    outputs.first_pixel + first, std::min(step, outputs.pixels - first),
                    outputs.width});
      }
    }
  }

  template <int N, Look look>
  void add_sorted(const PixelGrid& outputs, const Gradients<T>& gradients) const {
    const Geometry<int64_t>& g = call_.geometry;
    const int64_t groups = g.image_offset_groups;
    const int64_t keys = outputs.images * groups * (g.height + 1) * (g.width + 1);
    const at::Tensor key_of = at::empty({outputs.images * groups * g.taps() * outputs.pixels},
                                        call_.weight.options().dtype(at::kLong));
    const LookUps look_ups{call_.tapping(), outputs, groups, key_of.mutable_data_ptr<int64_t>()};
    launch(key_look_ups<A>, round_up(key_of.numel(), kThreads), dim3(kThreads), 0, look_ups,
           key_of.numel());
    const auto [sorted, order] =
        key_of.sort(/*stable=*/c10::optional<bool>(true), /*dim=*/0, /*descending=*/false);
    const at::Tensor starts =
        at::searchsorted(sorted, at::arange(keys + 1, key_of.options()), /*out_int32=*/false);

    const Launch launched = plan_launch(g, device_, N, kWarp, 4, 0, [&](const Threads& threads) {
      return SharedBytes{SharedRows<A, N>::bytes(dense ? 0 : gradients.rows, threads.lanes), 0};
    });
    PixelGrid pixels = call_.inputs();
    pixels.first_image = outputs.first_image;
    pixels.images = outputs.images;
    auto arguments = make_arguments(launched, pixels, gradients);
    arguments.order = order.template const_data_ptr<int64_t>();
    arguments.starts = starts.template const_data_ptr<int64_t>();
    launch(sorted_input_gradient<T, N, look, dense>,
           Block::count(arguments.runs, arguments.channels), launched.channels.threads().block(),
           launched.shared_bytes, arguments, look_ups);
  }

  InputGradient<T> make_arguments(const Launch& launched, const PixelGrid& pixels,
                                  Gradients<T> gradients) const {
    // Runs count images from the grid's first.
    gradients.weights += pixels.first_image * gradients.weights_step;
    return {call_.tapping(),
            launched.channels,
            PixelRuns(pixels.images, pixels.pixels, !dense && call_.weights_per_image(),
                      launched.tile, launched.channels.count(), device_),
            launched.capacity,
            pixels,
            gradients,
            static_cast<A*>(sums_.data_ptr()),
            source_of(call_.inputs(), call_.geometry.in_channels),
            nullptr,
            nullptr};
  }

  // The rows of inputs that the taps of `outputs` look at.
  PixelGrid inputs_of(const PixelGrid& outputs) const {
    const Geometry<int64_t>& g = call_.geometry;
    const auto first_row = [&](int64_t out_row) { return out_row * g.stride[0] - g.padding[0]; };
    const int64_t last_out = (outputs.first_pixel + outputs.pixels - 1) / outputs.width;
    const int64_t begin = std::max<int64_t>(first_row(outputs.first_pixel / outputs.width), 0);
    const int64_t end =
        std::min(first_row(last_out) + (g.kernel[0] - 1) * g.dilation[0] + 1, g.height);
    return {outputs.first_image, outputs.images, begin * g.width,
            std::max<int64_t>(end - begin, 0) * g.width, g.width};
  }

  const Call& call_;
  bool vectors_;
  Device device_;
  at::Tensor sums_;
};

}  // namespace mmdk::cuda
