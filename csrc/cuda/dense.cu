#include "cuda/dense.h"

#include <optional>
#include <vector>

#include "cuda/columns.cuh"
#include "cuda/input_gradient_pass.cuh"
#include "cuda/tap_gradients_pass.cuh"

namespace mmdk::cuda {
namespace {

// Of a tile of outputs whose columns would fill more than the cache: matrix products need some
// rows.
constexpr int64_t kLeastPixels = 64;

// Matrices of a call: weights as (images or 1, groups, cells * C_in/groups, C_out/groups), and
// tiles of outputs whose columns fit into the workspace.
class Matrices {
 public:
  explicit Matrices(const Call& call)
      : call_(call),
        groups_(call.geometry.groups),
        out_channels_(call.geometry.out_channels / groups_),
        rows_(call.geometry.group_channels * call.geometry.cells()),
        weights_(call.weight.to(call.input.scalar_type())
                     .flatten(3)
                     .unflatten(1, {groups_, out_channels_})
                     .permute({0, 1, 4, 3, 2})
                     .flatten(2, 3)
                     .contiguous()) {}

  // Calls f(grid) for each tile of outputs; the columns of one stay in the cache.
  template <typename F>
  void for_each_tile(const F& f) const {
    const PixelGrid all = call_.outputs();
    const int64_t pixel_bytes = groups_ * rows_ * static_cast<int64_t>(call_.input.element_size());
    const int64_t pixels = std::max(Device::current().cache_bytes / pixel_bytes, kLeastPixels);
    const int64_t images = std::max<int64_t>(pixels / all.pixels, 1);
    const int64_t step = std::min(pixels, all.pixels);
    for (int64_t image = 0; image < all.images; image += images) {
      for (int64_t first = 0; first < all.pixels; first += step) {
        f(PixelGrid{image, std::min(images, all.images - image), first,
                    std::min(step, all.pixels - first), all.width});
      }
    }
  }

  // (groups, images of the tile, pixels, cells * C_in/groups), images and groups exchanged where
  // images have weights of their own: matrices that share weights follow upon each other.
  std::vector<int64_t> columns_sizes(const PixelGrid& tile) const {
    if (call_.weights_per_image()) return {tile.images, groups_, tile.pixels, rows_};
    return {groups_, tile.images, tile.pixels, rows_};
  }

  // How kernels find the columns of an output, and of a group.
  Source source_of_columns(const at::Tensor& columns, const PixelGrid& tile) const {
    return {tile, columns.stride(call_.weights_per_image() ? 0 : 1), columns.stride(2)};
  }
  int64_t step_of_groups(const at::Tensor& columns) const {
    return columns.stride(call_.weights_per_image() ? 1 : 0);
  }

  // As a batch of matrices: (matrices, pixels, ...), and the tile's weights (matrices, ..., ...).
  at::Tensor batch(const at::Tensor& columns) const {
    return call_.weights_per_image() ? columns.flatten(0, 1) : columns.flatten(1, 2);
  }
  at::Tensor weights(const PixelGrid& tile) const { return of_tile(weights_, tile).flatten(0, 1); }
  at::Tensor of_tile(const at::Tensor& of_images, const PixelGrid& tile) const {
    return call_.weights_per_image() ? of_images.narrow(0, tile.first_image, tile.images)
                                     : of_images;
  }

  // The tile's part of an output or its gradient, in the order of the columns.
  at::Tensor outputs(const at::Tensor& output, const PixelGrid& tile) const {
    // A view, not a copy: outputs are written through it.
    const at::Tensor part = output.view({output.size(0), groups_, out_channels_, -1})
                                .narrow(0, tile.first_image, tile.images)
                                .narrow(3, tile.first_pixel, tile.pixels);
    return call_.weights_per_image() ? part.permute({0, 1, 3, 2}) : part.permute({1, 0, 3, 2});
  }

  at::Tensor zero_weight_gradient() const {
    return at::zeros(weights_.sizes(), call_.weight.options());
  }

  // In the shape of the call's weights.
  at::Tensor weight_gradient(const at::Tensor& gradient) const {
    const at::Tensor& weight = call_.weight;
    return gradient.unflatten(2, {call_.geometry.cells(), weight.size(2)})
        .permute({0, 1, 4, 3, 2})
        .reshape(weight.sizes());
  }

  // For the products of a tile.
  at::Tensor bias(const PixelGrid& tile) const {
    const at::Tensor bias =
        call_.bias.to(call_.input.scalar_type()).view({groups_, 1, out_channels_});
    return call_.weights_per_image() ? bias.repeat({tile.images, 1, 1}) : bias;
  }

 private:
  const Call& call_;
  int64_t groups_, out_channels_, rows_;
  at::Tensor weights_;
};

// Whether vectors of N channels lie at multiples of their size, also in columns.
template <typename T, int N>
bool columns_fit(const Call& call, std::initializer_list<const at::Tensor*> tensors) {
  return call.geometry.group_channels % N == 0 && vectors_fit<T, N>(call.geometry, tensors);
}

template <typename T, int N, Look look>
void launch_columns(const Call& call, const Matrices& matrices, const at::Tensor& input,
                    const at::Tensor& to, const PixelGrid& tile) {
  using A = at::opmath_type<T>;
  const Device device = Device::current();
  const Geometry<int64_t>& g = call.geometry;
  const int64_t cells = in_scope(look) ? Shape(g).bordered_cells() : 0;
  const Launch launched = plan_launch(g, device, N, kThreads, 1, 16, [&](const Threads& threads) {
    return SharedBytes{threads.rows * SharedRows<A, N>::bytes(cells, threads.lanes),
                       Plan<A, look, false>::bytes(1)};
  });
  const Columns<T> arguments{
      call.tapping(),
      launched.channels,
      PixelRuns(tile.images, tile.pixels, false, launched.tile, launched.channels.count(), device),
      launched.capacity,
      tile,
      static_cast<const T*>(input.data_ptr()),
      source_of(call.inputs(), g.in_channels),
      static_cast<T*>(to.data_ptr()),
      matrices.source_of_columns(to, tile),
      g.group_channels,
      matrices.step_of_groups(to)};
  launch(columns<T, N, look>, Block::count(arguments.runs, arguments.channels),
         launched.channels.threads().block(), launched.shared_bytes, arguments);
}

template <typename T>
at::Tensor resample(const Call& call, const Matrices& matrices, const at::Tensor& input,
                    const PixelGrid& tile) {
  const at::Tensor to = at::empty(matrices.columns_sizes(tile), call.input.options());
  with_look(call.look, [&](auto look) {
    if (columns_fit<T, kNarrow<T>>(call, {&input})) {
      launch_columns<T, kNarrow<T>, look.value>(call, matrices, input, to, tile);
    } else {
      launch_columns<T, 1, look.value>(call, matrices, input, to, tile);
    }
  });
  return to;
}

template <typename T>
void forward(const Call& call, const at::Tensor& output) {
  const Matrices matrices(call);
  const at::Tensor input = channels_innermost(call.input);
  matrices.for_each_tile([&](const PixelGrid& tile) {
    const at::Tensor columns = matrices.batch(resample<T>(call, matrices, input, tile));
    const at::Tensor weights = matrices.weights(tile);
    const at::Tensor products = call.bias.defined()
                                    ? at::baddbmm(matrices.bias(tile), columns, weights)
                                    : at::bmm(columns, weights);
    at::Tensor to = matrices.outputs(output, tile);
    to.copy_(products.view(to.sizes()));
  });
}

template <typename T>
CallGradients backward(const Call& call, const at::Tensor& grad_output, const Wanted& wanted) {
  const Geometry<int64_t>& g = call.geometry;
  const Matrices matrices(call);
  const at::Tensor input = channels_innermost(call.input);
  const at::Tensor grads = grad_output.contiguous(grad_output.suggest_memory_format());
  const bool wants_columns = wanted.input || wanted.taps();
  using InputPass = InputGradientPass<T, true>;
  std::optional<InputPass> input_pass;
  if (wanted.input) input_pass.emplace(call, columns_fit<T, InputPass::kVector>(call, {}));
  std::optional<TapGradientsPass<T, true>> taps_pass;
  if (wanted.taps()) {
    taps_pass.emplace(call, input, wanted, 0, columns_fit<T, kNarrow<T>>(call, {&input}));
  }
  at::Tensor grad_weight;
  if (wanted.weight) grad_weight = matrices.zero_weight_gradient();

  matrices.for_each_tile([&](const PixelGrid& tile) {
    const at::Tensor grad = matrices.batch(matrices.outputs(grads, tile).contiguous());
    if (wants_columns) {
      const at::Tensor columns =
          at::bmm(grad, matrices.weights(tile).transpose(1, 2)).view(matrices.columns_sizes(tile));
      const Gradients<T> gradients{static_cast<const T*>(columns.data_ptr()),
                                   matrices.source_of_columns(columns, tile),
                                   nullptr,
                                   0,
                                   0,
                                   g.group_channels,
                                   matrices.step_of_groups(columns)};
      if (input_pass) input_pass->run(tile, gradients);
      if (taps_pass) taps_pass->run(tile, gradients);
    }
    if (wanted.weight) {
      const at::Tensor columns = resample<T>(call, matrices, input, tile);
      const at::Tensor products = at::bmm(matrices.batch(columns).transpose(1, 2), grad);
      at::Tensor to = matrices.of_tile(grad_weight, tile);
      to.add_(products.view(to.sizes()));
    }
  });
  CallGradients to;
  if (taps_pass) taps_pass->finish(to);
  if (input_pass) to.input = input_pass->finish();
  if (wanted.weight) to.weight = matrices.weight_gradient(grad_weight);
  return to;
}

}  // namespace

void dense_forward(const Call& call, const at::Tensor& output) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, call.input.scalar_type(),
                                  "deform_kernel2d", [&] { forward<scalar_t>(call, output); });
}

CallGradients dense_backward(const Call& call, const at::Tensor& grad_output,
                             const Wanted& wanted) {
  CallGradients to;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, call.input.scalar_type(),
                                  "deform_kernel2d_backward",
                                  [&] { to = backward<scalar_t>(call, grad_output, wanted); });
  return to;
}

}  // namespace mmdk::cuda
