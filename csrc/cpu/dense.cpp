#include "cpu/dense.h"

#include <memory>
#include <vector>

#include "cpu/dense_tile.h"
#include "cpu/offset_sums.h"
#include "cpu/regions.h"

namespace mmdk::cpu {
namespace {

// Sums of weight gradients that tasks may have of their own, for few parts at most.
constexpr int64_t kWeightShares = 8;

// Each chunk a part: what is held of an image that is sampled is one chunk at a time.
std::vector<Part> single_chunks(const Call& call) { return make_parts(call.chunks, 1); }

// Outputs of one group while part after part is added, in accumulation precision: the output itself
// where that is its dtype, or else a tensor of their own, of which rows begin at first_y.
struct Accumulator {
  Activation rows;
  int64_t image, first_y;
};

// Adds one part to a tile; outputs begin as bias with the group's first part, and go to `output`
// with its last.
template <typename T>
void forward_part(const Call& call, const Tile& tile, const std::vector<Part>& parts, size_t part,
                  DenseTile<T>& work, TapSource<T>& source, const Accumulator& sums,
                  const Activation& output) {
  const auto group_of = [&](size_t i) { return call.chunks[parts[i].begin].group; };
  const int64_t group = group_of(part);
  const bool first = part == 0 || group_of(part - 1) != group;
  const bool last = part + 1 == parts.size() || group_of(part + 1) != group;
  if (first) {
    work.begin_outputs(tile, parts[part]);
  } else {
    work.load_outputs(tile, parts[part], sums.rows, sums.image, sums.first_y);
  }
  work.sample(tile, parts[part], source);
  work.add_products(tile, parts[part]);
  if (last) {
    work.store_outputs(tile, parts[part], output, tile.strip.image);
  } else {
    work.store_outputs(tile, parts[part], sums.rows, sums.image, sums.first_y);
  }
}

template <typename T>
bool accumulates_in_place(const at::Tensor& output) {
  return output.scalar_type() == c10::CppTypeToScalarType<T>::value;
}

at::Tensor new_sums(const Call& call, int64_t rows) {
  const Geometry<int64_t>& g = call.geometry;
  return at::empty({1, g.out_channels, rows, g.out_width}, call.weight.options());
}

template <typename T>
void forward_rows(const Call& call, const at::Tensor& output) {
  struct Thread {
    RowSource<T> source;
    DenseTile<T> tile;
    at::Tensor sums;
  };
  const std::vector<Part> parts = dense_parts(call);
  const Tiles tiles(call, parts);
  const Bands bands(call.geometry, 1);
  const Activation to(output);
  const bool in_place = accumulates_in_place<T>(output);
  const int64_t most_rows = (call.geometry.out_height + bands.count() - 1) / bands.count();
  for_each_region(
      bands, 1,
      [&] {
        return Thread{RowSource<T>(call, tiles.strips(), largest(parts), tiles.rows()),
                      DenseTile<T>(call, tiles), in_place ? output : new_sums(call, most_rows)};
      },
      [&](Thread& thread, const Region& region) {
        const Activation rows(thread.sums);
        for (int64_t image = region.images.begin; image < region.images.end; ++image) {
          const Accumulator sums =
              in_place ? Accumulator{rows, image, 0} : Accumulator{rows, 0, region.rows.begin};
          for (size_t part = 0; part < parts.size(); ++part) {
            thread.source.start(image, parts[part]);
            tiles.for_each(image, region.rows, [&](const Tile& tile) {
              forward_part(call, tile, parts, part, thread.tile, thread.source, sums, to);
            });
          }
        }
      });
}

template <typename T>
void forward_planes(const Call& call, const at::Tensor& output) {
  const std::vector<Part> parts = single_chunks(call);
  const Tiles tiles(call, parts);
  const Activation to(output);
  const bool in_place = accumulates_in_place<T>(output);
  const at::Tensor own_sums = in_place ? output : new_sums(call, call.geometry.out_height);
  const Activation rows(own_sums);
  for_each_plane<T>(
      call, [&](const Plane<T>& plane, int64_t image, int64_t chunk, int64_t, const Range& range) {
        PlaneSource<T> source(call, tiles.strips(), plane);
        DenseTile<T> work(call, tiles);
        const Accumulator sums{rows, in_place ? image : 0, 0};
        tiles.for_each(image, range, [&](const Tile& tile) {
          forward_part(call, tile, parts, chunk, work, source, sums, to);
        });
      });
}

template <typename T>
void backward_data_rows(const Call& call, const Activation& grad_output, const Gradients& to) {
  struct Thread {
    std::unique_ptr<RowSource<T>> source;  // null when it does not matter what the taps saw
    std::unique_ptr<RowSink<T>> sink;      // null when the input's gradient is not wanted
    DenseTile<T> tile;
  };
  const std::vector<Part> parts = dense_parts(call);
  const Tiles tiles(call, parts);
  const Bands bands(call.geometry, static_cast<int64_t>(parts.size()));
  const Seams<T> seams(call, bands, to.input.defined());
  const OffsetSums offset_sums(call, parts, to.kernel_offset);
  for_each_region(
      bands, static_cast<int64_t>(parts.size()),
      [&] {
        return Thread{
            to.kernel_offset.defined()
                ? std::make_unique<RowSource<T>>(call, tiles.strips(), largest(parts), tiles.rows())
                : nullptr,
            make_row_sink<T>(call, tiles.strips(), largest(parts), tiles.rows(), to.input, seams),
            DenseTile<T>(call, tiles)};
      },
      [&](Thread& thread, const Region& region) {
        const Part& part = parts[region.part];
        for (int64_t image = region.images.begin; image < region.images.end; ++image) {
          if (thread.source) thread.source->start(image, part);
          if (thread.sink) thread.sink->start(image, part, region.band);
          tiles.for_each(image, region.rows, [&](const Tile& tile) {
            thread.tile.load_outputs(tile, part, grad_output, image);
            thread.tile.backward_products(tile, part);
            thread.tile.distribute(
                tile, part, thread.source.get(), thread.sink.get(),
                [&](int64_t chunk) { return offset_sums.of(region.part, call.chunks[chunk]); });
          });
          if (thread.sink) thread.sink->finish_band();
        }
      });
  if (to.input.defined()) seams.join(call, Activation(to.input));
  offset_sums.join();
}

// Any output pixel may reach any place of the input: a task owns channels.
template <typename T>
void backward_input_planes(const Call& call, const Activation& grad_output, const Gradients& to) {
  const std::vector<Part> parts = single_chunks(call);
  const Tiles tiles(call, parts);
  const Activation grad_input(to.input);
  const int64_t chunks = static_cast<int64_t>(call.chunks.size());
  run_tasks(call.geometry.batch * chunks, [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    Plane<T> plane(call.geometry);
    PlaneSink<T> sink(call, tiles.strips(), plane);
    DenseTile<T> work(call, tiles);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / chunks, chunk = task % chunks;
      plane.fill_zero();
      tiles.for_each(image, {0, call.geometry.out_height}, [&](const Tile& tile) {
        work.load_outputs(tile, parts[chunk], grad_output, image);
        work.backward_products(tile, parts[chunk]);
        work.distribute(tile, parts[chunk], nullptr, &sink, [](int64_t) { return at::Tensor(); });
      });
      plane.store(grad_input, image, call.chunks[chunk]);
    }
  });
}

template <typename T>
void backward_offsets_planes(const Call& call, const Activation& grad_output, const Gradients& to) {
  const std::vector<Part> parts = single_chunks(call);
  const Tiles tiles(call, parts);
  const bool wants_image = to.image_offset.defined() || to.mask.defined();
  for_each_plane<T>(
      call, [&](const Plane<T>& plane, int64_t image, int64_t chunk, int64_t, const Range& rows) {
        PlaneSource<T> source(call, tiles.strips(), plane);
        OffsetSink<T> sink(call, tiles.strips(), source, to);
        DenseTile<T> work(call, tiles);
        tiles.for_each(image, rows, [&](const Tile& tile) {
          work.load_outputs(tile, parts[chunk], grad_output, image);
          work.backward_products(tile, parts[chunk]);
          work.distribute(tile, parts[chunk], &source, wants_image ? &sink : nullptr,
                          [&](int64_t) { return to.kernel_offset; });
        });
      });
}

// Parts own columns of the gradient. Few parts mean a small weight: pixels are shared out too, each
// share with sums of its own. Images with weights of their own are shares of their own.
template <typename T, typename MakeSource>
void backward_weight(const Call& call, const std::vector<Part>& parts,
                     const Activation& grad_output, const Gradients& to,
                     const MakeSource& make_source) {
  const Geometry<int64_t>& g = call.geometry;
  const Tiles tiles(call, parts);
  const bool per_image = call.weight.size(0) > 1;
  const int64_t part_count = static_cast<int64_t>(parts.size());
  const int64_t rows = g.batch * g.out_height;
  const int64_t shares =
      per_image ? g.batch
                : std::clamp<int64_t>(kWeightShares / part_count, 1, std::max<int64_t>(rows, 1));
  std::vector<at::Tensor> sums(part_count * shares);
  for (int64_t task = 0; task < part_count * shares; ++task) {
    const int64_t weight = per_image ? task % shares : 0;
    const at::Tensor place = part_of_weight(call, to.weight[weight], parts[task / shares]);
    sums[task] = weight == task % shares ? place : at::zeros(place.sizes(), place.options());
  }
  run_tasks(part_count * shares, [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    auto source = make_source(tiles);
    DenseTile<T> work(call, tiles);
    for (int64_t task = begin; task < end; ++task) {
      const Part& part = parts[task / shares];
      const Range all = share(rows, task % shares, shares);
      for (int64_t row = all.begin; row < all.end;) {
        const int64_t image = row / g.out_height, y = row % g.out_height;
        const int64_t last = std::min(g.out_height, y + all.end - row);
        source->start(image, part);
        tiles.for_each(image, {y, last}, [&](const Tile& tile) {
          work.load_outputs(tile, part, grad_output, image);
          work.sample(tile, part, *source);
          work.add_weight_gradient(tile, part, sums[task]);
        });
        row += last - y;
      }
    }
  });
  if (per_image) return;
  for (int64_t task = 0; task < part_count * shares; ++task) {
    if (task % shares != 0) sums[task - task % shares].add_(sums[task]);
  }
}

}  // namespace

template <typename T>
void dense_forward(const Call& call, const at::Tensor& output) {
  if (call.samples_image()) {
    forward_planes<T>(call, output);
  } else {
    forward_rows<T>(call, output);
  }
}

template <typename T>
void dense_backward(const Call& call, const Activation& grad_output, const Gradients& to) {
  const bool wants_offsets =
      to.kernel_offset.defined() || to.image_offset.defined() || to.mask.defined();
  if (call.samples_image()) {
    if (to.input.defined()) backward_input_planes<T>(call, grad_output, to);
    if (wants_offsets) backward_offsets_planes<T>(call, grad_output, to);
    if (to.weight.defined()) {
      backward_weight<T>(call, single_chunks(call), grad_output, to, [&](const Tiles& tiles) {
        return std::make_unique<OwnPlaneSource<T>>(call, tiles.strips());
      });
    }
    return;
  }
  if (to.input.defined() || wants_offsets) backward_data_rows<T>(call, grad_output, to);
  if (to.weight.defined()) {
    const std::vector<Part> parts = dense_parts(call);
    backward_weight<T>(call, parts, grad_output, to, [&](const Tiles& tiles) {
      return std::make_unique<RowSource<T>>(call, tiles.strips(), largest(parts), tiles.rows());
    });
  }
}

template void dense_forward<float>(const Call&, const at::Tensor&);
template void dense_forward<double>(const Call&, const at::Tensor&);
template void dense_backward<float>(const Call&, const Activation&, const Gradients&);
template void dense_backward<double>(const Call&, const Activation&, const Gradients&);

}  // namespace mmdk::cpu
