// Registers the operators for tensors on a GPU.
#include <torch/library.h>

#include "cuda/deform_kernel2d.h"
#include "cuda/sample_kernel.h"

namespace mmdk::cuda {

TORCH_LIBRARY_IMPL(mmdk, CUDA, library) {
  library.impl("deform_kernel2d", forward);
  library.impl("deform_kernel2d_backward", backward);
  library.impl("sample_kernel", sample_kernel);
  library.impl("sample_kernel_backward", sample_kernel_backward);
}

}  // namespace mmdk::cuda
