// CPU kernels of mmdk::sample_kernel and its backward: dtypes and layouts. scope_sampler.h does the
// work.
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/results.h"
#include "cpu/scope_sampler.h"

namespace mmdk::cpu {
namespace {

ScopeSampler make_sampler(const at::Tensor& weight, const at::Tensor& kernel_offset,
                          at::IntArrayRef kernel_size) {
  const auto dtype = at::toOpMathType(weight.scalar_type());
  return ScopeSampler(weight.to(dtype).contiguous(), kernel_offset.to(dtype).contiguous(),
                      kernel_size, weight.size(1));
}

at::Tensor forward(const at::Tensor& weight, const at::Tensor& kernel_offset,
                   at::IntArrayRef kernel_size) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  return make_sampler(weight, kernel_offset, kernel_size).sample().to(weight.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_kernels,
                                            const at::Tensor& weight,
                                            const at::Tensor& kernel_offset,
                                            at::IntArrayRef kernel_size,
                                            std::array<bool, 2> output_mask) {
  check_sample_kernel(weight, kernel_offset, kernel_size);
  check_grad_kernels(grad_kernels, weight, kernel_offset, kernel_size);
  auto to = make_sampler(weight, kernel_offset, kernel_size)
                .backward(grad_kernels.to(at::toOpMathType(weight.scalar_type())), output_mask[0],
                          output_mask[1]);
  if (to.weight.defined()) to.weight = to.weight.to(weight.scalar_type());
  if (to.offset.defined()) to.offset = to.offset.to(kernel_offset.scalar_type());
  return {or_empty(to.weight, weight), or_empty(to.offset, weight)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmdk, CPU, library) {
  library.impl("sample_kernel", forward);
  library.impl("sample_kernel_backward", backward);
}

}  // namespace mmdk::cpu
