// Errors that the sanitizers have to report, compiled into their builds alone: proof that a clean
// run means something.
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>

namespace {

int64_t out_of_bounds(int64_t size) {
  const at::Tensor tensor = at::zeros({size}, at::kInt);
  tensor.mutable_data_ptr<int>()[size] = 1;
  return 0;
}

int64_t overflow(int64_t number) { return std::numeric_limits<int64_t>::max() + number; }

int64_t race(int64_t tasks) {
  int64_t sum = 0;
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
  return sum;
}

}  // namespace

TORCH_LIBRARY(mmdk_planted, library) {
  library.def("out_of_bounds", out_of_bounds);
  library.def("overflow", overflow);
  library.def("race", race);
}
