// CPU kernels of mmdk::sample_kernel and its backward. The scope is held as (cells, rows), a row
// being one pair of output and input channels, so that the loops run over rows.
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "common/bilinear.h"
#include "common/checks.h"
#include "common/results.h"
#include "cpu/look_up_cells.h"

namespace mmdk::cpu {
namespace {

struct Sizes {
  int64_t batch, taps, rows, scope_height, scope_width, kernel_height, kernel_width;

  Sizes(const at::Tensor& weight, const at::Tensor& kernel_offset, at::IntArrayRef kernel_size)
      : batch(kernel_offset.size(0)),
        taps(kernel_size[0] * kernel_size[1]),
        rows(weight.size(0) * weight.size(1)),
        scope_height(weight.size(2)),
        scope_width(weight.size(3)),
        kernel_height(kernel_size[0]),
        kernel_width(kernel_size[1]) {}
};

template <typename T>
Lookup<T> tap_lookup(const T* offset, int64_t tap, const Sizes& s) {
  const T y = rest_coordinate<T>(tap / s.kernel_width, s.kernel_height, s.scope_height);
  const T x = rest_coordinate<T>(tap % s.kernel_width, s.kernel_width, s.scope_width);
  return look_up(y + offset[0], x + offset[1], s.scope_height, s.scope_width);
}

// Calls f(i, lookup) for each tap of each image, i counting both, whose look-up is inside.
template <typename T, typename F>
void for_each_tap(const T* offsets, int64_t begin, int64_t end, const Sizes& s, const F& f) {
  for (int64_t i = begin; i < end; ++i) {
    const Lookup<T> lookup = tap_lookup(offsets + i * 2, i % s.taps, s);
    if (lookup.inside) f(i, lookup);
  }
}

at::Tensor cells_first(const at::Tensor& weight, at::ScalarType dtype) {
  return weight.to(dtype).flatten(2).flatten(0, 1).t().contiguous();
}

at::Tensor forward(const at::Tensor& weight, const at::Tensor& kernel_offset,
                   at::IntArrayRef kernel_size) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  const Sizes s(weight, kernel_offset, kernel_size);
  const auto dtype = at::toOpMathType(weight.scalar_type());
  const at::Tensor scope = cells_first(weight, dtype);
  const at::Tensor offset = kernel_offset.to(dtype).contiguous();
  at::Tensor kernels = at::zeros({s.batch, s.taps, s.rows}, scope.options());
  AT_DISPATCH_FLOATING_TYPES(dtype, "sample_kernel", [&] {
    const scalar_t* from = scope.const_data_ptr<scalar_t>();
    const scalar_t* offsets = offset.const_data_ptr<scalar_t>();
    scalar_t* to = kernels.data_ptr<scalar_t>();
    at::parallel_for(0, s.batch * s.taps, 1, [&](int64_t begin, int64_t end) {
      for_each_tap(offsets, begin, end, s, [&](int64_t i, const Lookup<scalar_t>& lookup) {
        simd::kernels<scalar_t>().gather(
            to + i * s.rows, from, cells_of(lookup, s.scope_width, s.rows, scalar_t(1)), s.rows);
      });
    });
  });
  return kernels.transpose(1, 2)
      .reshape({s.batch, weight.size(0), weight.size(1), s.kernel_height, s.kernel_width})
      .to(weight.scalar_type())
      .contiguous();
}

template <typename T>
void backward_offset(const T* grad, const T* scope, const T* offsets, const Sizes& s,
                     T* grad_offset) {
  at::parallel_for(0, s.batch * s.taps, 1, [&](int64_t begin, int64_t end) {
    for_each_tap(offsets, begin, end, s, [&](int64_t i, const Lookup<T>& lookup) {
      T along[4];
      simd::kernels<T>().dots(along, scope, cells_of(lookup, s.scope_width, s.rows, T(1)),
                              grad + i * s.rows, s.rows);
      add_coordinate_gradient(lookup, along, T(1), grad_offset + i * 2, 1);
    });
  });
}

// Rows are shared out to threads, so each sum over images and taps has one order.
template <typename T>
void backward_weight(const T* grad, const T* offsets, const Sizes& s, T* grad_scope) {
  constexpr int64_t kRowsPerTask = 256;
  at::parallel_for(0, s.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for_each_tap(offsets, 0, s.batch * s.taps, s, [&](int64_t i, const Lookup<T>& lookup) {
      simd::kernels<T>().scatter(grad_scope + begin, cells_of(lookup, s.scope_width, s.rows, T(1)),
                                 grad + i * s.rows + begin, end - begin);
    });
  });
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_kernels,
                                            const at::Tensor& weight,
                                            const at::Tensor& kernel_offset,
                                            at::IntArrayRef kernel_size,
                                            std::array<bool, 2> output_mask) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  check_grad_kernels(grad_kernels, weight, kernel_offset, kernel_size);
  const Sizes s(weight, kernel_offset, kernel_size);
  const auto dtype = at::toOpMathType(weight.scalar_type());
  const at::Tensor scope = cells_first(weight, dtype);
  const at::Tensor offset = kernel_offset.to(dtype).contiguous();
  const at::Tensor grad =
      grad_kernels.to(dtype).reshape({s.batch, s.rows, s.taps}).transpose(1, 2).contiguous();
  at::Tensor grad_scope, grad_offset;
  if (output_mask[0]) grad_scope = at::zeros_like(scope);
  if (output_mask[1]) grad_offset = at::zeros_like(offset);
  AT_DISPATCH_FLOATING_TYPES(dtype, "sample_kernel_backward", [&] {
    const scalar_t* g = grad.const_data_ptr<scalar_t>();
    const scalar_t* offsets = offset.const_data_ptr<scalar_t>();
    if (output_mask[0]) backward_weight(g, offsets, s, grad_scope.data_ptr<scalar_t>());
    if (output_mask[1]) {
      backward_offset(g, scope.const_data_ptr<scalar_t>(), offsets, s,
                      grad_offset.data_ptr<scalar_t>());
    }
  });
  if (output_mask[0]) {
    grad_scope = grad_scope.t().reshape(weight.sizes()).to(weight.scalar_type()).contiguous();
  }
  if (output_mask[1]) grad_offset = grad_offset.to(kernel_offset.scalar_type());
  return {or_empty(grad_scope, weight), or_empty(grad_offset, weight)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, CPU, library) {
  library.impl("sample_kernel", forward);
  library.impl("sample_kernel_backward", backward);
}

}  // namespace mmdk::cpu
