// For ThreadSanitizer, included before everything else: at::parallel_for on std::thread.
//
// libgomp is not compiled with ThreadSanitizer, which therefore does not see its barriers and would
// report a race wherever one thread reads what another has written before one. PyTorch's template
// calls at::internal::invoke_parallel; without OpenMP it leaves that out, and this takes its place.
#pragma once

#ifdef _OPENMP
#error "compile with -fno-openmp: PyTorch would define invoke_parallel itself"
#endif

#include <cstdint>

namespace at::internal {
// Before PyTorch's header, whose template names it.
template <typename F>
void invoke_parallel(int64_t begin, int64_t end, int64_t grain_size, const F& f);
}  // namespace at::internal

#define INTRA_OP_PARALLEL
#include <ATen/Parallel.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

namespace at::internal {
// PyTorch's own partition, but for as many threads as are asked for, however few cores there are,
// and all of them new: PyTorch's operators inside, which would share their work out to OpenMP, are
// confined to the thread they are called in.
template <typename F>
void invoke_parallel(int64_t begin, int64_t end, int64_t grain_size, const F& f) {
  int64_t count = at::get_num_threads();
  if (grain_size > 0) count = std::min(count, divup(end - begin, grain_size));
  const int64_t part = divup(end - begin, count);
  std::vector<std::exception_ptr> errors(count);
  std::vector<std::thread> threads;
  for (int64_t index = 0; begin + index * part < end; ++index) {
    threads.emplace_back([&, index] {
      try {
        at::set_num_threads(1);
        ThreadIdGuard id(static_cast<int>(index));
        const int64_t first = begin + index * part;
        f(first, std::min(first + part, end));
      } catch (...) {
        errors[index] = std::current_exception();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}
}  // namespace at::internal
