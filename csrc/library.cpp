// The operators' schemas. mmdk.ops documents them; geometry is (height, width).
#include <torch/library.h>

TORCH_LIBRARY(mmdk, library) {
  library.def(
      "deform_kernel2d(Tensor input, Tensor weight, Tensor? kernel_offset, Tensor? image_offset, "
      "Tensor? mask, Tensor? bias, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation) -> Tensor");
  library.def(
      "deform_kernel2d_backward(Tensor grad_output, Tensor input, Tensor weight, "
      "Tensor? kernel_offset, Tensor? image_offset, Tensor? mask, Tensor? bias, "
      "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool[6] output_mask) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("sample_kernel(Tensor weight, Tensor kernel_offset, int[2] kernel_size) -> Tensor");
  library.def(
      "sample_kernel_backward(Tensor grad_kernels, Tensor weight, Tensor kernel_offset, "
      "int[2] kernel_size, bool[2] output_mask) -> (Tensor, Tensor)");
}
