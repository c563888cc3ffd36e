// Passes over all output pixels, in tasks.
#pragma once

#include <vector>

#include "cpu/call.h"
#include "cpu/partition.h"
#include "cpu/plane.h"

namespace mmdk::cpu {

// Rows of outputs of some images, seen by one part of the channels.
struct Region {
  Range images;
  int64_t image_group;
  int64_t part;
  int64_t band;
  Range rows;
};

// Runs f(worker, region) for every combination; make_worker() is called once for each thread.
template <typename MakeWorker, typename F>
void for_each_region(const Bands& bands, int64_t parts, const MakeWorker& make_worker, const F& f) {
  run_tasks(bands.image_groups() * parts * bands.count(), [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    auto worker = make_worker();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t band = task % bands.count(), rest = task / bands.count();
      const int64_t group = rest / parts;
      f(worker, Region{bands.images(group), group, rest % parts, band, bands.rows(band)});
    }
  });
}

// Runs f(plane, image, chunk, share, rows) for each chunk of each image, one after the other, the
// rows of outputs in `shares` tasks. The plane holds that chunk of the input.
template <typename T, typename F>
void for_each_plane(const Call& call, const F& f) {
  const Geometry<int64_t>& g = call.geometry;
  const Activation input(call.input);
  Plane<T> plane(g);
  for (int64_t image = 0; image < g.batch; ++image) {
    for (int64_t chunk = 0; chunk < static_cast<int64_t>(call.chunks.size()); ++chunk) {
      plane.load(input, image, call.chunks[chunk]);
      run_tasks(kPlaneShares, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          f(plane, image, chunk, i, share(g.out_height, i, kPlaneShares));
        }
      });
    }
  }
}

}  // namespace mmdk::cpu
