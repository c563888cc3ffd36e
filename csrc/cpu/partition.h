// How the work of a call is cut into tasks: by the geometry alone, never by the number of threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>

#include "common/geometry.h"
#include "cpu/simd/kernels.h"

// Of the MKL that PyTorch was built with; null where it was built without. The number of threads
// that MKL takes on the calling thread; returns what it was.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace mmdk::cpu {

// About this many tasks: enough for many threads, few enough for each to have sums of its own.
constexpr int64_t kTasks = 16;

// While one lives, MKL's matrix products on this thread are for one thread. Inside a parallel
// region they have no other, but once torch.set_num_threads was called, MKL still cuts long sums,
// with its AVX-512 kernels at least, for as many threads as were set.
class OneMklThread {
 public:
  OneMklThread() {
    at::get_num_threads();  // its first call on a thread sets MKL's number too
    if (MKL_Set_Num_Threads_Local) before_ = MKL_Set_Num_Threads_Local(1);
  }
  ~OneMklThread() {
    if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(before_);
  }
  OneMklThread(const OneMklThread&) = delete;
  OneMklThread& operator=(const OneMklThread&) = delete;

 private:
  int before_ = 0;  // as many as are set for all threads
};

// Runs f(begin, end) over [0, tasks) on all threads. Matrix products inside must neither record
// gradients nor be cast by autocast, nor be shared out to threads, which would change the order of
// their sums: a lone task, which would run outside any parallel region, gets an idle companion.
template <typename F>
void run_tasks(int64_t tasks, const F& f) {
  const int64_t scheduled = tasks == 1 ? 2 : tasks;
  at::parallel_for(0, scheduled, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    OneMklThread unshared;
    f(begin, std::min(end, tasks));
  });
}

// Tasks for the rows of one image, where images and channels follow one another.
constexpr int64_t kPlaneShares = 8;

struct Range {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
};

inline Range share(int64_t size, int64_t index, int64_t count) {
  return {size * index / count, size * (index + 1) / count};
}

// Output pixels [x, x + pixels) of one row.
struct Strip {
  int64_t image, y, x, pixels;
};

// Rows of output pixels, cut into strips of nearly equal length.
class Strips {
 public:
  Strips(const Geometry<int64_t>& g, int64_t most)
      : width_(g.out_width), count_((g.out_width + longest(g, most) - 1) / longest(g, most)) {}

  int64_t count() const { return count_; }
  int64_t most() const { return (width_ + count_ - 1) / count_; }
  Strip at(int64_t image, int64_t y, int64_t index) const {
    const Range columns = share(width_, index, count_);
    return {image, y, columns.begin, columns.size()};
  }

 private:
  // A strip should not span much more input than there is.
  static int64_t longest(const Geometry<int64_t>& g, int64_t most) {
    return std::min(most, 2 * g.width / g.stride[1] + 1);
  }

  int64_t width_, count_;
};

// Images in groups and output rows in bands. Of any two bands but neighbours no input row is
// shared.
class Bands {
 public:
  // About kTasks tasks, when each band is worked on `times` times.
  Bands(const Geometry<int64_t>& g, int64_t times)
      : images_(g.batch),
        groups_(std::clamp<int64_t>(kTasks, 1, std::max<int64_t>(g.batch, 1))),
        height_(g.out_height) {
    const int64_t reach = (g.kernel[0] - 1) * g.dilation[0] / g.stride[0];
    // Rows at the edges of a band are loaded twice.
    const int64_t least = std::max<int64_t>(2 * reach, 1);
    count_ =
        std::clamp<int64_t>(kTasks / (groups_ * times), 1, std::max<int64_t>(height_ / least, 1));
  }

  int64_t image_groups() const { return groups_; }
  Range images(int64_t group) const { return share(images_, group, groups_); }
  int64_t count() const { return count_; }
  Range rows(int64_t band) const { return share(height_, band, count_); }

 private:
  int64_t images_, groups_, height_, count_;
};

}  // namespace mmdk::cpu
