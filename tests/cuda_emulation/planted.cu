// Kernels that show what the emulator does: correct ones, with results that are known; and ones
// with a planted error, which it has to report, each at the line that says so.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "cuda/launch.h"
#include "cuda/memory.cuh"
#include "cuda/mma.cuh"

namespace mmdk::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ float* shared_floats() { return reinterpret_cast<float*>(shared_memory()); }

// Correct ones.

constexpr int kSummed = 128;  // numbers, and threads, of a block

__global__ void sum_blocks(const float* data, float* sums) {
  float value = load_global(data + blockIdx.x * kSummed + threadIdx.x).at[0];
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  const int warp = threadIdx.x / 32, warps = kSummed / 32;
  if (threadIdx.x % 32 == 0) store_shared(shared_floats() + warp, value);
  __syncthreads();
  if (warp > 0) return;
  value = threadIdx.x < warps ? load_shared(shared_floats() + threadIdx.x).at[0] : 0.0f;
  for (int by = warps / 2; by > 0; by /= 2) value += __shfl_down_sync(kAllLanes, value, by, warps);
  if (threadIdx.x == 0) store_global(sums + blockIdx.x, value);
}

// Bit masks of the negative numbers, and for each half of a warp the number of its first.
__global__ void vote(const float* data, int* votes, float* firsts) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const float value = load_global(data + thread).at[0];
  const unsigned negative = __ballot_sync(kAllLanes, value < 0);
  const bool any = __any_sync(kAllLanes, value < 0) != 0;
  if (lane == 0) store_global(votes + thread / 32, any ? static_cast<int>(negative) : 0);
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  store_global(firsts + thread, __shfl_sync(half, value, 0, 16));
}

__global__ void count_values(const int* values, int size, int* counts) {
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (at < size) add_global(counts + load_global(values + at).at[0], Vector<int, 1>{{1}});
}

// Reads of several lanes, and then a write of one of them: their warp's meeting is enough.
__global__ void rotate_in_warps(const float* data, float* rotated) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* const row = shared_floats() + threadIdx.x / 32 * 32;
  store_shared(row + lane, load_global(data + threadIdx.x).at[0]);
  for (int step = 0; step < 3; ++step) {
    __syncwarp();
    const float next = load_shared(row + (lane + 1) % 32).at[0];
    const float first = load_shared(row).at[0];
    __syncwarp();
    store_shared(row + lane, next + 0 * first);
  }
  store_global(rotated + threadIdx.x, load_shared(row + lane).at[0]);
}

// In parts, each on its way while the one before is written out, the other way round.
__global__ void reverse_parts(const float* data, int parts, float* reversed) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const auto start = [&](int part) {
    ::emulation::copy_async(shared_floats() + part % 2 * threads + thread,
                            data + part * threads + thread, sizeof(float));
  };
  start(0);
  for (int part = 0; part < parts; ++part) {
    ::emulation::wait_copies();
    __syncthreads();
    if (part + 1 < parts) start(part + 1);
    const float* const from = shared_floats() + part % 2 * threads;
    store_global(reversed + part * threads + thread, load_shared(from + threads - 1 - thread));
  }
}

// a (16, 16) times b (16, 8), row by row.
template <typename T>
__global__ void multiply(const T* a, const T* b, float* product) {
  const int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
  uint32_t left[4], right[2];
  float sums[4] = {};
  for (int i = 0; i < 4; ++i) {
    const auto two = load_global<2>(a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8);
    left[i] = pack(two.at[0], two.at[1]);
  }
  for (int i = 0; i < 2; ++i) {
    const T* const from = b + (pair + i * 8) * 8 + group;
    right[i] = pack(load_global(from).at[0], load_global(from + 8).at[0]);
  }
  multiply_add<T>(sums, left, right);
  for (int i = 0; i < 2; ++i) {
    store_global(product + (group + i * 8) * 8 + pair,
                 Vector<float, 2>{{sums[2 * i], sums[2 * i + 1]}});
  }
}

// What is counted.

template <int N>
__global__ void read_all(const float* data, int size, int stride, int times) {
  for (int i = 0; i < times; ++i) {
    for (int at = threadIdx.x * stride; at < size; at += blockDim.x * stride) {
      load_global<N>(data + at);
    }
  }
}

// Writes the words of shared memory without conflicts, then reads at the stride.
template <int N>
__global__ void read_shared(int stride) {
  for (int i = 0; i < stride; ++i) store_shared(shared_floats() + i * 32 + threadIdx.x, 0.0f);
  __syncthreads();
  load_shared<N>(shared_floats() + threadIdx.x * stride);
}

// Planted errors. One block of 64 threads and as many numbers, unless said.

constexpr int kThreads = 64;

__global__ void missing_barrier(float* data, int) {
  float* const own = shared_floats() + threadIdx.x;
  store_shared(own, load_global(data + threadIdx.x).at[0]);
  __syncthreads();
  const float* const other = shared_floats() + (threadIdx.x + 32) % kThreads;
  const float value = load_shared(other).at[0];  // error: or this read
  store_shared(own, value);                      // error: races with the read of the other thread
}

__global__ void warps_without_barrier(float* data, int) {
  store_shared(shared_floats() + threadIdx.x, 0.0f);  // error: races with the read
  __syncwarp();
  __syncwarp();
  // Written before by the other warp, which has met as often.
  if (threadIdx.x >= 32) load_shared(shared_floats() + threadIdx.x - 32);  // error: or the write
}

__global__ void halves_of_a_warp(float* data, int) {
  const unsigned half = threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
  if (threadIdx.x == 0) store_shared(shared_floats(), 0.0f);
  __syncthreads();
  if (threadIdx.x == 0) store_shared(shared_floats(), 1.0f);  // error: races with the read
  __syncwarp(half);
  __syncwarp(half);
  if (threadIdx.x == 16) load_shared(shared_floats());  // error: or the write
}

__global__ void global_race(float* data, int) {
  store_global(data + threadIdx.x, 0.0f);            // error: races with the read
  load_global(data + (threadIdx.x + 1) % kThreads);  // error: or the write
}

__global__ void race_of_readers(float* data, int) {
  if (threadIdx.x < 40) load_global(data);          // error: or this read
  if (threadIdx.x == 20) store_global(data, 0.0f);  // error: races with reads of other lanes
}

__global__ void read_and_atomic_addition(float* data, int) {
  add_global(data, Vector<float, 1>{{1.0f}});  // error: races with the read
  if (threadIdx.x == 9) load_global(data);     // error: or the addition
}

// By two blocks.
__global__ void write_of_two_blocks(float* data, int) {
  if (threadIdx.x == 3) store_global(data, 0.0f);  // error: the other block does so, too
}

// By two blocks: the first read is in the other block, the barrier in this one.
__global__ void read_and_write_of_two_blocks(float* data, int) {
  load_global(data);  // error: or this read
  __syncthreads();
  load_global(data);  // error: or this one
  __syncthreads();
  if (threadIdx.x == 3) store_global(data, 0.0f);  // error: the other block reads
}

__global__ void read_past_end(float* data, int size) {
  load_global(data + threadIdx.x + size - kThreads + 1);  // error
}

__global__ void write_past_end(float* data, int size) {
  store_global(data + threadIdx.x + size - kThreads + 1, 0.0f);  // error
}

__global__ void read_before_start(float* data, int) {
  load_global(data + threadIdx.x - 1);  // error
}

__global__ void write_before_start(float* data, int) {
  store_global(data + threadIdx.x - 1, 0.0f);  // error
}

__global__ void atomic_addition_past_end(float* data, int size) {
  add_global(data + size, Vector<float, 1>{{1.0f}});  // error
}

__global__ void shared_past_end(float*, int) {
  store_shared(shared_floats() + threadIdx.x + 1, 0.0f);  // error
}

__global__ void shared_before_start(float*, int) {
  store_shared(shared_floats() + threadIdx.x, 0.0f);
  load_shared(shared_floats() - 1);  // error
}

__global__ void uninitialised_shared(float*, int) {
  if (threadIdx.x != 17) store_shared(shared_floats() + threadIdx.x, 0.0f);
  __syncthreads();
  load_shared(shared_floats() + threadIdx.x);  // error: of thread 17
}

__global__ void barrier_after_return(float*, int) {
  if (threadIdx.x == 5) return;
  __syncthreads();  // error: one has returned
}

__global__ void two_barriers(float* data, int) {
  if (threadIdx.x < 32) {
    __syncthreads();  // error: the others are at another
  } else {
    store_global(data + threadIdx.x, 0.0f);
    __syncthreads();
  }
}

__global__ void lane_that_does_not_come(float*, int) {
  if (threadIdx.x % 32 != 31) __shfl_xor_sync(kAllLanes, 1, 1);  // error
  __syncthreads();
}

__global__ void different_lanes(float*, int) {
  __shfl_xor_sync(threadIdx.x % 32 < 8 ? 0xffu : kAllLanes, 1, 1);  // error: of the others
}

__global__ void misaligned_vector(float* data, int) {
  load_global<4>(data + threadIdx.x / 32 * 4 + 2);  // error
}

__global__ void misaligned_shared_vector(float*, int) {
  store_shared(shared_floats() + 1, Vector<float, 2>{});  // error
}

__global__ void lane_outside_the_mask(float*, int) {
  if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 16);  // error
}

__global__ void mask_without_the_lane(float*, int) {
  __syncwarp(0xfffffffeu);  // error: of lane 0
}

// By 48 threads.
__global__ void lanes_that_are_none(float*, int) {
  if (threadIdx.x >= 32) __shfl_xor_sync(kAllLanes, 1, 1);  // error
}

__global__ void copy_that_has_not_landed(float* data, int) {
  float* const own = shared_floats() + threadIdx.x;
  store_shared(own, 0.0f);
  ::emulation::copy_async(own, data + threadIdx.x, sizeof(float));
  load_shared(own);  // error
}

__global__ void copy_of_another_thread(float* data, int) {
  ::emulation::copy_async(shared_floats() + threadIdx.x, data + threadIdx.x, sizeof(float));
  ::emulation::wait_copies();  // error: or this
  __syncwarp();
  load_shared(shared_floats() + (threadIdx.x + 32) % kThreads);  // error: the other warp's
}

// Not through memory.cuh.
__global__ void raw_write(float* data, int size) {
  if (threadIdx.x == 7) data[size] = 0.0f;  // error
}

__global__ void stack_overflow(float* data, int size) {
  volatile char large[540 << 10];
  large[size] = 0;  // error
  if (threadIdx.x == 7) data[0] = large[size];
}

__global__ void nothing(float*, int) {}

template <auto kernel, int blocks = 1, int threads = kThreads>
void run(const at::Tensor& data) {
  launch(kernel, blocks, dim3(threads), threads * sizeof(float), data.data_ptr<float>(),
         static_cast<int>(data.numel()));
}

// As launch(), which asks the driver first and leaves out launches of no blocks.
void launch_as_it_is(int64_t blocks, int64_t threads, int64_t shared_bytes) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, nothing, static_cast<float*>(nullptr), 0));
}

at::Tensor run_sum_blocks(const at::Tensor& data) {
  const int64_t blocks = data.numel() / kSummed;
  const at::Tensor sums = at::empty({blocks}, data.options());
  launch(sum_blocks, blocks, dim3(kSummed), kSummed / 32 * sizeof(float), data.data_ptr<float>(),
         sums.data_ptr<float>());
  return sums;
}

std::tuple<at::Tensor, at::Tensor> run_vote(const at::Tensor& data) {
  const at::Tensor votes = at::empty({data.numel() / 32}, data.options().dtype(at::kInt));
  const at::Tensor firsts = at::empty_like(data);
  launch(vote, 1, dim3(static_cast<unsigned>(data.numel())), 0, data.data_ptr<float>(),
         votes.data_ptr<int>(), firsts.data_ptr<float>());
  return {votes, firsts};
}

at::Tensor run_count_values(const at::Tensor& values, int64_t bins) {
  const at::Tensor counts = at::zeros({bins}, values.options());
  const int size = static_cast<int>(values.numel());
  launch(count_values, (size + 63) / 64, dim3(64), 0, values.data_ptr<int>(), size,
         counts.data_ptr<int>());
  return counts;
}

at::Tensor run_rotate_in_warps(const at::Tensor& data) {
  const at::Tensor rotated = at::empty_like(data);
  launch(rotate_in_warps, 1, dim3(static_cast<unsigned>(data.numel())), data.nbytes(),
         data.data_ptr<float>(), rotated.data_ptr<float>());
  return rotated;
}

// (parts, threads)
at::Tensor run_reverse_parts(const at::Tensor& data) {
  const at::Tensor reversed = at::empty_like(data);
  const auto threads = static_cast<unsigned>(data.size(1));
  launch(reverse_parts, 1, dim3(threads), 2 * threads * sizeof(float), data.data_ptr<float>(),
         static_cast<int>(data.size(0)), reversed.data_ptr<float>());
  return reversed;
}

at::Tensor run_multiply(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor product = at::empty({16, 8}, a.options().dtype(at::kFloat));
  AT_DISPATCH_REDUCED_FLOATING_TYPES(a.scalar_type(), "multiply", [&] {
    launch(multiply<scalar_t>, 1, dim3(32), 0, a.data_ptr<scalar_t>(), b.data_ptr<scalar_t>(),
           product.data_ptr<float>());
  });
  return product;
}

// By warps: blocks of one.
void run_read_all(const at::Tensor& data, int64_t width, int64_t stride, int64_t times,
                  int64_t blocks) {
  launch(width == 4 ? read_all<4> : read_all<1>, blocks, dim3(32), 0, data.data_ptr<float>(),
         static_cast<int>(data.numel()), static_cast<int>(stride), static_cast<int>(times));
}

void run_read_shared(int64_t width, int64_t stride) {
  launch(width == 4 ? read_shared<4> : read_shared<1>, 1, dim3(32), 32 * stride * sizeof(float),
         static_cast<int>(stride));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mmdk_emulation, library) {
  library.def("sum_blocks", run_sum_blocks);
  library.def("vote", run_vote);
  library.def("count_values", run_count_values);
  library.def("rotate_in_warps", run_rotate_in_warps);
  library.def("reverse_parts", run_reverse_parts);
  library.def("multiply", run_multiply);
  library.def("read_all", run_read_all);
  library.def("read_shared", run_read_shared);

  library.def("missing_barrier", run<missing_barrier>);
  library.def("warps_without_barrier", run<warps_without_barrier>);
  library.def("halves_of_a_warp", run<halves_of_a_warp>);
  library.def("global_race", run<global_race>);
  library.def("race_of_readers", run<race_of_readers>);
  library.def("read_and_atomic_addition", run<read_and_atomic_addition>);
  library.def("write_of_two_blocks", run<write_of_two_blocks, 2>);
  library.def("read_and_write_of_two_blocks", run<read_and_write_of_two_blocks, 2>);
  library.def("read_past_end", run<read_past_end>);
  library.def("write_past_end", run<write_past_end>);
  library.def("read_before_start", run<read_before_start>);
  library.def("write_before_start", run<write_before_start>);
  library.def("atomic_addition_past_end", run<atomic_addition_past_end>);
  library.def("shared_past_end", run<shared_past_end>);
  library.def("shared_before_start", run<shared_before_start>);
  library.def("uninitialised_shared", run<uninitialised_shared>);
  library.def("barrier_after_return", run<barrier_after_return>);
  library.def("two_barriers", run<two_barriers>);
  library.def("lane_that_does_not_come", run<lane_that_does_not_come>);
  library.def("different_lanes", run<different_lanes>);
  library.def("misaligned_vector", run<misaligned_vector>);
  library.def("misaligned_shared_vector", run<misaligned_shared_vector>);
  library.def("lane_outside_the_mask", run<lane_outside_the_mask>);
  library.def("mask_without_the_lane", run<mask_without_the_lane>);
  library.def("lanes_that_are_none", run<lanes_that_are_none, 1, 48>);
  library.def("copy_that_has_not_landed", run<copy_that_has_not_landed>);
  library.def("copy_of_another_thread", run<copy_of_another_thread>);
  library.def("raw_write", run<raw_write>);
  library.def("stack_overflow", run<stack_overflow>);
  library.def("nothing", run<nothing>);
  library.def("launch_as_it_is", launch_as_it_is);
}

}  // namespace mmdk::cuda
