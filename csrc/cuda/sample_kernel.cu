#include "cuda/sample_kernel.h"

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAGuard.h>

#include "common/bilinear.h"
#include "common/results.h"
#include "cuda/channels.cuh"
#include "cuda/launch.h"
#include "cuda/partition.h"

namespace mmdk::cuda {
namespace {

// Kernels (N, rows, taps) of scopes (rows, cells); rows are pairs of output and input channels.
template <typename A>
struct Samples {
  int64_t batch, rows, group_channels, group_outputs;
  int64_t offset_groups, per_offset_group;  // channels of one
  int kernel[2], scope[2];
  const A* weight;
  const A* offset;

  __device__ int64_t taps() const { return int64_t{kernel[0]} * kernel[1]; }
  __device__ int64_t cells() const { return int64_t{scope[0]} * scope[1]; }
  __device__ int64_t offset_group(int64_t row) const {
    const int64_t output = divide(row, group_channels);
    const int64_t channel =
        divide(output, group_outputs) * group_channels + row - output * group_channels;
    return divide(channel, per_offset_group);
  }
  __device__ int64_t offset_of(int64_t image, int64_t group, int64_t tap) const {
    return ((image * offset_groups + group) * taps() + tap) * 2;
  }
  __device__ Lookup<A> look(int64_t image, int64_t group, int64_t tap) const {
    const A* const at = offset + offset_of(image, group, tap);
    const A y = rest_coordinate<A>(tap / kernel[1], kernel[0], scope[0]) + load_global(at).at[0];
    const A x =
        rest_coordinate<A>(tap % kernel[1], kernel[1], scope[1]) + load_global(at + 1).at[0];
    return look_up(y, x, scope[0], scope[1]);
  }
};

// One thread for each number of `kernels`.
template <typename A>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    sample(const Samples<A> call, A* kernels, int64_t numbers) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= numbers) return;
  const int64_t kernel = divide(index, call.taps()), image = divide(kernel, call.rows);
  const int64_t row = kernel - image * call.rows;
  const int64_t tap = index - kernel * call.taps();
  const auto look = call.look(image, call.offset_group(row), tap);
  A sum = 0;
  if (look.inside) {
    for_each_cell(look, call.scope[1], [&](int64_t cell, A value, A, A) {
      sum += value * load_global(call.weight + row * call.cells() + cell).at[0];
    });
  }
  store_global(kernels + index, sum);
}

// One thread for each number of the weight's gradient: all kernels that its cell is part of.
template <typename A>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    sample_weight_gradient(const Samples<A> call, const A* kernels, A* weight) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.rows * call.cells()) return;
  const int64_t row = divide(index, call.cells()), own = index - row * call.cells();
  const int64_t group = call.offset_group(row);
  A sum = 0;
  for (int64_t image = 0; image < call.batch; ++image) {
    for (int64_t tap = 0; tap < call.taps(); ++tap) {
      const auto look = call.look(image, group, tap);
      if (!look.inside) continue;
      const A gradient = load_global(kernels + (image * call.rows + row) * call.taps() + tap).at[0];
      for_each_cell(look, call.scope[1], [&](int64_t cell, A value, A, A) {
        // A cell moved inside weighs nothing.
        if (cell == own) sum += value * gradient;
      });
    }
  }
  store_global(weight + index, sum);
}

// One block for each look-up: the rows of its offset group, always in the same order.
template <typename A>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    sample_offset_gradient(const Samples<A> call, const A* kernels, A* offset) {
  const int64_t block = divide(blockIdx.x, call.taps());
  const int64_t tap = blockIdx.x - block * call.taps();
  const int64_t image = divide(block, call.offset_groups);
  const int64_t group = block - image * call.offset_groups;
  const auto look = call.look(image, group, tap);
  A y = 0, x = 0;
  if (look.inside) {
    for (int64_t row = threadIdx.x; row < call.rows; row += kThreads) {
      if (call.offset_group(row) != group) continue;
      const A gradient = load_global(kernels + (image * call.rows + row) * call.taps() + tap).at[0];
      for_each_cell(look, call.scope[1], [&](int64_t cell, A, A slope_y, A slope_x) {
        const A weight = load_global(call.weight + row * call.cells() + cell).at[0];
        y += slope_y * gradient * weight;
        x += slope_x * gradient * weight;
      });
    }
  }
  A* const sums = reinterpret_cast<A*>(shared_memory());
  y = sum_over_lanes(y, kWarp);
  x = sum_over_lanes(x, kWarp);
  if (threadIdx.x % kWarp == 0) {
    store_shared(sums + threadIdx.x / kWarp * 2, y);
    store_shared(sums + threadIdx.x / kWarp * 2 + 1, x);
  }
  __syncthreads();
  if (threadIdx.x >= 2) return;
  A sum = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) {
    sum += load_shared(sums + warp * 2 + threadIdx.x).at[0];
  }
  store_global(offset + call.offset_of(image, group, tap) + threadIdx.x, sum);
}

template <typename A>
Samples<A> make_samples(const ScopeSamples& from) {
  const at::Tensor& weight = from.weight;
  const int64_t taps = from.kernel_size[0] * from.kernel_size[1];
  const int64_t offset_groups = from.offset.size(1) / (taps * 2);
  const int64_t groups = from.in_channels / weight.size(1);
  return {from.offset.size(0),
          weight.size(0) * weight.size(1),
          weight.size(1),
          weight.size(0) / groups,
          offset_groups,
          from.in_channels / offset_groups,
          {static_cast<int>(from.kernel_size[0]), static_cast<int>(from.kernel_size[1])},
          {static_cast<int>(weight.size(2)), static_cast<int>(weight.size(3))},
          static_cast<const A*>(weight.data_ptr()),
          static_cast<const A*>(from.offset.data_ptr())};
}

ScopeSamples make_scope_samples(const at::Tensor& weight, const at::Tensor& offset,
                                at::IntArrayRef kernel_size) {
  return {weight, offset, kernel_size, weight.size(1)};
}

at::Tensor in_accumulation_precision(const at::Tensor& tensor, const at::Tensor& weight) {
  return tensor.to(at::toOpMathType(weight.scalar_type())).contiguous();
}

}  // namespace

at::Tensor ScopeSamples::kernels() const {
  const at::Tensor to =
      at::empty({offset.size(0), weight.size(0), weight.size(1), kernel_size[0], kernel_size[1]},
                weight.options());
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "sample_kernel", [&] {
    launch(sample<scalar_t>, round_up(to.numel(), kThreads), dim3(kThreads), 0,
           make_samples<scalar_t>(*this), static_cast<scalar_t*>(to.data_ptr()), to.numel());
  });
  return to;
}

at::Tensor ScopeSamples::weight_gradient(const at::Tensor& gradient) const {
  const at::Tensor to = at::empty_like(weight), from = gradient.contiguous();
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "sample_kernel_backward", [&] {
    launch(sample_weight_gradient<scalar_t>, round_up(to.numel(), kThreads), dim3(kThreads), 0,
           make_samples<scalar_t>(*this), static_cast<const scalar_t*>(from.data_ptr()),
           static_cast<scalar_t*>(to.data_ptr()));
  });
  return to;
}

at::Tensor ScopeSamples::offset_gradient(const at::Tensor& gradient) const {
  const at::Tensor to = at::empty_like(offset), from = gradient.contiguous();
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "sample_kernel_backward", [&] {
    launch(sample_offset_gradient<scalar_t>, to.numel() / 2, dim3(kThreads),
           kThreads / kWarp * 2 * static_cast<int64_t>(sizeof(scalar_t)),
           make_samples<scalar_t>(*this), static_cast<const scalar_t*>(from.data_ptr()),
           static_cast<scalar_t*>(to.data_ptr()));
  });
  return to;
}

at::Tensor sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  const c10::cuda::CUDAGuard guard(weight.device());
  const at::Tensor scope = in_accumulation_precision(weight, weight);
  const at::Tensor offset = in_accumulation_precision(kernel_offset, weight);
  return make_scope_samples(scope, offset, kernel_size).kernels().to(weight.scalar_type());
}

operators::Two sample_kernel_backward(const at::Tensor& grad_kernels, const at::Tensor& weight,
                                      const at::Tensor& kernel_offset, at::IntArrayRef kernel_size,
                                      std::array<bool, 2> output_mask) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  check_grad_kernels(grad_kernels, weight, kernel_offset, kernel_size);
  const c10::cuda::CUDAGuard guard(weight.device());
  const at::Tensor scope = in_accumulation_precision(weight, weight);
  const at::Tensor offset = in_accumulation_precision(kernel_offset, weight);
  const at::Tensor grad = in_accumulation_precision(grad_kernels, weight);
  const ScopeSamples samples = make_scope_samples(scope, offset, kernel_size);
  at::Tensor grad_weight, grad_offset;
  if (output_mask[0]) grad_weight = samples.weight_gradient(grad).to(weight.scalar_type());
  if (output_mask[1]) grad_offset = samples.offset_gradient(grad).to(kernel_offset.scalar_type());
  return {or_empty(grad_weight, weight), or_empty(grad_offset, weight)};
}

}  // namespace mmdk::cuda
