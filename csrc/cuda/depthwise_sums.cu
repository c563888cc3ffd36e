#include "cuda/depthwise_sums.h"

#include "cuda/depthwise_mma.cuh"
#include "cuda/depthwise_planes.cuh"
#include "cuda/depthwise_sums.cuh"

namespace mmdk::cuda {
namespace {

template <typename T>
using Accumulation = at::opmath_type<T>;

template <typename T, int N, Look look, bool transposed>
void launch_sums(const Call& call, const SumsRequest& request) {
  using A = Accumulation<T>;
  const Device device = Device::current();
  const Geometry<int64_t>& g = call.geometry;
  const at::Tensor weights = pack_rows(call.weight, in_scope(look));
  const int rows = static_cast<int>(weights.size(1));
  // At most 128 channels: then their weights leave room for several blocks.
  const int lanes = std::min(kWarp, 128 / N);
  const Launch launched = plan_launch(g, device, N, lanes, kPixels, 0, [&](const Threads& threads) {
    return SharedBytes{SharedRows<A, N>::bytes(rows, threads.lanes),
                       Plan<A, look, false>::bytes(1)};
  });
  const PixelGrid from = transposed ? call.outputs() : call.inputs();
  const PixelGrid to = transposed ? call.inputs() : call.outputs();
  const DepthwiseSums<T> arguments{
      call.tapping(),
      launched.channels,
      PixelRuns(g.batch, to.pixels, call.weights_per_image(), launched.tile,
                launched.channels.count(), device),
      launched.capacity,
      static_cast<const T*>(request.data.data_ptr()),
      source_of(from, g.in_channels),
      static_cast<const A*>(weights.data_ptr()),
      rows,
      step_of_images(weights),
      request.bias.defined() ? static_cast<const A*>(request.bias.data_ptr()) : nullptr,
      static_cast<T*>(request.sums.data_ptr()),
      source_of(to, g.in_channels)};
  launch(depthwise_sums<T, N, look, transposed>, Block::count(arguments.runs, arguments.channels),
         launched.channels.threads().block(), launched.shared_bytes, arguments);
}

template <typename T, int N>
void launch_sums(const Call& call, const SumsRequest& request) {
  if (request.transposed) {
    launch_sums<T, N, Look::kScope, true>(call, request);
  } else {
    with_look(call.look, [&](auto look) { launch_sums<T, N, look.value, false>(call, request); });
  }
}

// Tensor cores sample scopes of few cells for whole warps of channels; masks may be larger than
// what a half type holds beside a bilinear weight.
template <typename T>
bool fits_mma(const Call& call, const SumsRequest& request) {
  const Geometry<int64_t>& g = call.geometry;
  // What was compiled for older ones has no such instruction, whatever the device has.
  cudaFuncAttributes code{};
  C10_CUDA_CHECK(
      cudaFuncGetAttributes(&code, reinterpret_cast<const void*>(depthwise_mma<T, false>)));
  return code.ptxVersion >= kMmaCapability && call.look == Look::kScope && g.cells() <= kMmaCells &&
         !call.mask.defined() && !call.weights_per_image() &&
         g.in_channels / g.kernel_offset_groups % kMmaChannels == 0 &&
         vectors_fit<T, kWide<T>>(g, {&request.data, &request.sums});
}

template <typename T, bool transposed>
void launch_mma(const Call& call, const SumsRequest& request) {
  const Device device = Device::current();
  const Geometry<int64_t>& g = call.geometry;
  const ChannelBlocks channels(g, kMmaChannels, kThreads / kWarp, kThreads / kWarp);
  const int groups = channels.threads().rows;
  const int64_t per_tap = MmaPlan<T>::bytes(groups * kMmaPixels);
  const int capacity =
      static_cast<int>(std::min<int64_t>(g.taps(), kSharedBytesOfAnyDevice / per_tap));
  const PixelGrid from = transposed ? call.outputs() : call.inputs();
  const PixelGrid to = transposed ? call.inputs() : call.outputs();
  const at::Tensor weights = call.weight.to(request.data.scalar_type()).flatten(1).clone();
  const DepthwiseMma<T> arguments{
      call.tapping(),
      channels,
      PixelRuns(g.batch, to.pixels, false, groups * kMmaPixels, channels.count(), device),
      capacity,
      static_cast<const T*>(request.data.data_ptr()),
      source_of(from, g.in_channels),
      static_cast<const T*>(weights.data_ptr()),
      request.bias.defined() ? static_cast<const float*>(request.bias.data_ptr()) : nullptr,
      static_cast<T*>(request.sums.data_ptr()),
      source_of(to, g.in_channels)};
  launch(depthwise_mma<T, transposed>, Block::count(arguments.runs, channels), dim3(kThreads),
         per_tap * capacity, arguments);
}

template <typename T, bool transposed>
void launch_planes(const Call& call, const SumsRequest& request) {
  using A = Accumulation<T>;
  const Device device = Device::current();
  const Geometry<int64_t>& g = call.geometry;
  const at::Tensor weights = pack_rows(call.weight, /*bordered=*/true).transpose(1, 2).contiguous();
  const int64_t rows = weights.size(2);
  const int64_t per_tap = Plan<A, Look::kScope, false>::bytes(kThreads);
  const auto fixed = [&](int width) { return SharedRows<A, 1>::bytes(rows, width); };
  int width = 64;
  while (width > 1 && fixed(width) + per_tap > device.shared_bytes) width /= 2;
  check_scope_fits(g, device, fixed(width) + per_tap);
  const ChannelBlocks channels(g, 1, width, kThreads);
  const int64_t room = usual_bytes(fixed(channels.width()) + per_tap, device);
  const int capacity =
      static_cast<int>(std::min<int64_t>(g.taps(), (room - fixed(channels.width())) / per_tap));
  const PixelGrid from = transposed ? call.outputs() : call.inputs();
  const PixelGrid to = transposed ? call.inputs() : call.outputs();
  const PlaneSums<T> arguments{
      call.tapping(),
      channels,
      PixelRuns(g.batch, to.pixels, call.weights_per_image(), kThreads, channels.count(), device),
      capacity,
      static_cast<const T*>(request.data.data_ptr()),
      Source{from, g.in_channels * from.pixels, 1},
      from.pixels,
      static_cast<const A*>(weights.data_ptr()),
      step_of_images(weights),
      request.bias.defined() ? static_cast<const A*>(request.bias.data_ptr()) : nullptr,
      static_cast<T*>(request.sums.data_ptr()),
      Source{to, g.in_channels * to.pixels, 1},
      to.pixels};
  launch(plane_sums<T, transposed>, Block::count(arguments.runs, channels), dim3(kThreads),
         fixed(channels.width()) + per_tap * capacity, arguments);
}

}  // namespace

at::Tensor pack_rows(const at::Tensor& weight, bool bordered) {
  const at::Tensor rows = weight.squeeze(2);
  // In memory of its own, which vectors can be read from.
  return (bordered ? at::constant_pad_nd(rows, {1, 1, 1, 1}) : rows)
      .flatten(2)
      .transpose(1, 2)
      .clone(at::MemoryFormat::Contiguous);
}

at::Tensor unpack_rows(const at::Tensor& rows, const at::Tensor& weight, bool bordered) {
  const int64_t border = bordered ? 1 : 0, height = weight.size(3), width = weight.size(4);
  return rows.transpose(1, 2)
      .unflatten(2, {height + 2 * border, width + 2 * border})
      .narrow(2, border, height)
      .narrow(3, border, width)
      .reshape(weight.sizes());
}

void sum_channels_innermost(const Call& call, const SumsRequest& request) {
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, request.data.scalar_type(), "deform_kernel2d", [&] {
        constexpr int N = kWide<scalar_t>;
        if constexpr (sizeof(scalar_t) == 2) {
          if (fits_mma<scalar_t>(call, request)) {
            if (request.transposed) {
              launch_mma<scalar_t, true>(call, request);
            } else {
              launch_mma<scalar_t, false>(call, request);
            }
            return;
          }
        }
        if (vectors_fit<scalar_t, N>(call.geometry, {&request.data, &request.sums})) {
          launch_sums<scalar_t, N>(call, request);
        } else {
          launch_sums<scalar_t, 1>(call, request);
        }
      });
}

void sum_planes(const Call& call, const SumsRequest& request) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, request.data.scalar_type(),
                                  "deform_kernel2d", [&] {
                                    if (request.transposed) {
                                      launch_planes<scalar_t, true>(call, request);
                                    } else {
                                      launch_planes<scalar_t, false>(call, request);
                                    }
                                  });
}

}  // namespace mmdk::cuda
