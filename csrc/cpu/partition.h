// How the work of a call is cut into tasks: by the geometry alone, never by the number of threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>

#include "common/geometry.h"

namespace mmdk::cpu {

// Runs f(begin, end) over [0, tasks) on all threads. Matrix products inside must neither record
// gradients nor be cast by autocast, nor be shared out to threads, which would change the order of
// their sums: a lone task, which would run outside any parallel region, gets an idle companion.
template <typename F>
void run_tasks(int64_t tasks, const F& f) {
  const int64_t scheduled = tasks == 1 ? 2 : tasks;
  at::parallel_for(0, scheduled, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    f(begin, std::min(end, tasks));
  });
}

// Rows [begin, end) of one output image; `index` counts the bands of all images.
struct Band {
  int64_t image;
  int64_t begin, end;
  int64_t index;
};

// Bands of output rows. Without image offsets a band reaches a known band of input rows, and bands
// are high enough that of any two neighbours but one no input row is shared.
class Bands {
 public:
  // About `in_all` bands, at least two an image.
  Bands(const Geometry<int64_t>& geometry, int64_t in_all) : geometry_(geometry) {
    const int64_t wanted = std::max<int64_t>(in_all / std::max<int64_t>(geometry.batch, 1), 2);
    const int64_t reach = (geometry.kernel[0] - 1) * geometry.dilation[0] / geometry.stride[0];
    height_ = std::max<int64_t>({1, reach, (geometry.out_height + wanted - 1) / wanted});
    per_image_ = (geometry.out_height + height_ - 1) / height_;
  }

  int64_t count() const { return geometry_.batch * per_image_; }

  // Runs f(band, scratch) for all even bands at once, then for all odd ones; make_scratch() is
  // called once for each thread.
  template <typename MakeScratch, typename F>
  void run(const MakeScratch& make_scratch, const F& f) const {
    for (int64_t parity = 0; parity < 2; ++parity) {
      const int64_t per_image = (per_image_ + 1 - parity) / 2;
      run_tasks(geometry_.batch * per_image, [&](int64_t begin, int64_t end) {
        auto scratch = make_scratch();
        for (int64_t task = begin; task < end; ++task) {
          f(band(task / per_image, task % per_image * 2 + parity), scratch);
        }
      });
    }
  }

 private:
  Band band(int64_t image, int64_t index) const {
    return {image, index * height_, std::min((index + 1) * height_, geometry_.out_height),
            image * per_image_ + index};
  }

  const Geometry<int64_t>& geometry_;
  int64_t height_, per_image_;
};

}  // namespace mmdk::cpu
