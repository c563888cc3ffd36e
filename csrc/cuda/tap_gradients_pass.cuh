// Launches tap_gradients.cuh, over all outputs or some at a time.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cuda/call.h"
#include "cuda/tap_gradients.cuh"

namespace mmdk::cuda {

template <typename T, bool dense>
class TapGradientsPass {
 public:
  using A = at::opmath_type<T>;

  // `input` has its channels innermost. `vectors`: whether input and gradients lie at multiples of
  // kNarrow channels.
  TapGradientsPass(const Call& call, const at::Tensor& input, const Wanted& wanted,
                   int64_t weight_rows, bool vectors)
      : call_(call),
        input_(input),
        vector_(vectors ? kNarrow<T> : 1),
        launch_(plan(call, vector_, weight_rows, wanted.weight)),
        runs_(make_runs(call.outputs())) {
    const ChannelBlocks& channels = launch_.channels;
    kernel_offset_ =
        make_sums(wanted.kernel_offset, call.kernel_offset, channels.per_kernel_offset_group());
    image_offset_ =
        make_sums(wanted.image_offset, call.image_offset, channels.per_image_offset_group());
    mask_ = make_sums(wanted.mask, call.mask, channels.per_image_offset_group());
    if (wanted.weight && !dense) {
      weight_ = at::empty(
          {runs_.groups(), runs_.count() / runs_.groups(), weight_rows, call.geometry.in_channels},
          call.weight.options());
    }
  }

  void run(const PixelGrid& outputs, const Gradients<T>& gradients) const {
    const Geometry<int64_t>& g = call_.geometry;
    const TapGradients<T> arguments{call_.tapping(),
                                    launch_.channels,
                                    make_runs(outputs),
                                    launch_.capacity,
                                    outputs,
                                    static_cast<const T*>(input_.data_ptr()),
                                    source_of(call_.inputs(), g.in_channels),
                                    gradients,
                                    {data(kernel_offset_), data(image_offset_), data(mask_),
                                     g.kernel_offset_groups, g.image_offset_groups},
                                    data(weight_)};
    with_look(call_.look, [&](auto look) {
      if (vector_ == 1) {
        start<1, look.value>(arguments);
      } else {
        start<kNarrow<T>, look.value>(arguments);
      }
    });
  }

  // weight: (images or 1, rows, C)
  void finish(CallGradients& to) const {
    to.kernel_offset = add_up(kernel_offset_, 0);
    to.image_offset = add_up(image_offset_, 0);
    to.mask = add_up(mask_, 0);
    if (weight_.defined()) to.weight = add_up(weight_, 1);
  }

 private:
  static Launch plan(const Call& call, int vector, int64_t weight_rows, bool wants_weight) {
    const auto with_vector = [&](auto constant) {
      constexpr int N = constant.value;
      return plan_launch(
          call.geometry, Device::current(), N, kThreads, 1, 16, [&](const Threads& threads) {
            const int64_t rows = dense ? 0 : weight_rows;
            const int64_t copies = wants_weight && !dense ? threads.rows : 0;
            const int64_t plan_bytes = call.look == Look::kScope
                                           ? Plan<A, Look::kScope, true>::bytes(1)
                                           : Plan<A, Look::kScopeAndImage, true>::bytes(1);
            const int64_t warps = std::max(threads.lanes / kWarp, 1);
            // What rounding up to multiples of 16 bytes may add is counted here.
            return SharedBytes{SharedRows<A, N>::bytes(rows, threads.lanes) * (1 + copies) + 16,
                               plan_bytes + kTapSums * warps * static_cast<int64_t>(sizeof(A))};
          });
    };
    return vector == 1 ? with_vector(std::integral_constant<int, 1>())
                       : with_vector(std::integral_constant<int, kNarrow<T>>());
  }

  PixelRuns make_runs(const PixelGrid& outputs) const {
    return PixelRuns(outputs.images, outputs.pixels, !dense && call_.weights_per_image(),
                     launch_.tile, launch_.channels.count(), Device::current());
  }

  at::Tensor make_sums(bool wanted, const at::Tensor& like, int64_t blocks) const {
    if (!wanted || !like.defined()) return {};
    std::vector<int64_t> sizes{blocks};
    sizes.insert(sizes.end(), like.sizes().begin(), like.sizes().end());
    return at::empty(sizes, call_.weight.options());
  }

  static at::Tensor add_up(const at::Tensor& parts, int64_t dim) {
    if (!parts.defined()) return {};
    return parts.size(dim) == 1 ? parts.squeeze(dim) : parts.sum(dim);
  }

  static A* data(const at::Tensor& tensor) {
    return tensor.defined() ? static_cast<A*>(tensor.data_ptr()) : nullptr;
  }

  template <int N, Look look>
  void start(const TapGradients<T>& arguments) const {
    launch(tap_gradients<T, N, look, dense>, Block::count(arguments.runs, arguments.channels),
           launch_.channels.threads().block(), launch_.shared_bytes, arguments);
  }

  const Call& call_;
  const at::Tensor& input_;
  int vector_;
  Launch launch_;
  PixelRuns runs_;
  at::Tensor kernel_offset_, image_offset_, mask_, weight_;
};

}  // namespace mmdk::cuda
