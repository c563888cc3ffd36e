#include "cpu/sweeps.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "cpu/contraction.h"
#include "cpu/partition.h"
#include "cpu/simd/kernels.h"

namespace mmdk::cpu {
namespace {

constexpr int64_t kTilePixels = 64;
// Enough for many threads, few enough for each to have sums of its own.
constexpr int64_t kTasks = 16;

// Runs f(task, tile) for each task, tiles being private to a thread.
template <typename T, typename F>
void for_each_task(int64_t tasks, const Call<T>& call, const F& f) {
  run_tasks(tasks, [&](int64_t begin, int64_t end) {
    SampledTile<T> tile(call.operands, call.geometry);
    for (int64_t task = begin; task < end; ++task) f(task, tile);
  });
}

int64_t tiles_per_image(const Geometry<int64_t>& g) {
  return (g.pixels() + kTilePixels - 1) / kTilePixels;
}

PixelRange tile_range(int64_t index, const Geometry<int64_t>& g) {
  const int64_t begin = index % tiles_per_image(g) * kTilePixels;
  return {index / tiles_per_image(g), begin, std::min(begin + kTilePixels, g.pixels())};
}

template <typename T, typename F>
void for_each_tile(const PixelRange& pixels, SampledTile<T>& tile, const F& f) {
  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kTilePixels) {
    const PixelRange range{pixels.image, begin, std::min(begin + kTilePixels, pixels.end)};
    tile.move_to(range);
    f(range);
  }
}

// First element of a range in (N, H_out, W_out, C_out).
template <typename T>
T* rows(T* tensor, const PixelRange& range, const Geometry<int64_t>& g) {
  return tensor + (range.image * g.pixels() + range.begin) * g.out_channels;
}

template <typename T>
void backward_tile(const Call<T>& call, size_t block, const T* grad_output, const PixelRange& range,
                   SampledTile<T>& tile, const GradTargets<T>& targets) {
  const Block& channels = call.blocks[block];
  Contraction<T>(call.geometry)
      .backward_data(channels, call.weights[block], rows(grad_output, range, call.geometry),
                     range.size(), tile.buffer(channels));
  tile.distribute(channels, targets);
}

template <typename T>
void backward_all_blocks(const Call<T>& call, const T* grad_output, const PixelRange& range,
                         SampledTile<T>& tile, const GradTargets<T>& targets) {
  for (size_t block = 0; block < call.blocks.size(); ++block) {
    backward_tile(call, block, grad_output, range, tile, targets);
  }
}

template <typename T>
void backward_data_in_bands(const Call<T>& call, const T* grad_output,
                            const GradTargets<T>& targets) {
  const Geometry<int64_t>& g = call.geometry;
  Bands(g, kTasks).run([&] { return SampledTile<T>(call.operands, g); },
                       [&](const Band& band, SampledTile<T>& tile) {
                         const PixelRange pixels{band.image, band.begin * g.out_width,
                                                 band.end * g.out_width};
                         for_each_tile(pixels, tile, [&](const PixelRange& range) {
                           backward_all_blocks(call, grad_output, range, tile, targets);
                         });
                       });
}

// With image offsets any pixel may reach any input position: a task owns channels instead.
template <typename T>
void backward_input_in_blocks(const Call<T>& call, const T* grad_output, T* grad_input) {
  const Geometry<int64_t>& g = call.geometry;
  const int64_t blocks = static_cast<int64_t>(call.blocks.size());
  GradTargets<T> targets;
  targets.input = grad_input;
  for_each_task(g.batch * blocks, call, [&](int64_t task, SampledTile<T>& tile) {
    for_each_tile({task / blocks, 0, g.pixels()}, tile, [&](const PixelRange& range) {
      backward_tile(call, task % blocks, grad_output, range, tile, targets);
    });
  });
}

}  // namespace

template <typename T>
void sweep_forward(const Call<T>& call, T* output) {
  const Geometry<int64_t>& g = call.geometry;
  const Contraction<T> contraction(g);
  for_each_task(g.batch * tiles_per_image(g), call, [&](int64_t task, SampledTile<T>& tile) {
    const PixelRange range = tile_range(task, g);
    tile.move_to(range);
    for (size_t block = 0; block < call.blocks.size(); ++block) {
      T* z = tile.sample(call.blocks[block]);
      contraction.forward(call.blocks[block], call.weights[block], z, range.size(),
                          rows(output, range, g));
    }
  });
}

template <typename T>
void sweep_backward_data(const Call<T>& call, const T* grad_output, const GradTargets<T>& targets) {
  if (call.operands.image_offset == nullptr) {
    backward_data_in_bands(call, grad_output, targets);
    return;
  }
  if (targets.input != nullptr) backward_input_in_blocks(call, grad_output, targets.input);
  GradTargets<T> per_pixel = targets;
  per_pixel.input = nullptr;
  if (!per_pixel.any()) return;
  const Geometry<int64_t>& g = call.geometry;
  for_each_task(g.batch * tiles_per_image(g), call, [&](int64_t task, SampledTile<T>& tile) {
    const PixelRange range = tile_range(task, g);
    tile.move_to(range);
    backward_all_blocks(call, grad_output, range, tile, per_pixel);
  });
}

template <typename T>
at::Tensor sweep_backward_bias(const Geometry<int64_t>& g, const at::Tensor& grad_output) {
  // Tiles are summed on their own first, which also keeps long sums accurate.
  const int64_t tiles = g.batch * tiles_per_image(g);
  at::Tensor per_tile = at::zeros({tiles, g.out_channels}, grad_output.options());
  at::Tensor total = at::zeros({g.out_channels}, grad_output.options());
  const T* grad = grad_output.const_data_ptr<T>();
  T* sums = per_tile.data_ptr<T>();
  const auto add_scaled = simd::kernels<T>().add_scaled;
  run_tasks(tiles, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const PixelRange range = tile_range(tile, g);
      for (int64_t p = 0; p < range.size(); ++p) {
        add_scaled(sums + tile * g.out_channels, rows(grad, range, g) + p * g.out_channels, T(1),
                   g.out_channels);
      }
    }
  });
  for (int64_t tile = 0; tile < tiles; ++tile) {
    add_scaled(total.data_ptr<T>(), sums + tile * g.out_channels, T(1), g.out_channels);
  }
  return total;
}

template <typename T>
std::vector<at::Tensor> sweep_backward_weight(const Call<T>& call, const T* grad_output) {
  const Geometry<int64_t>& g = call.geometry;
  const int64_t tiles = g.batch * tiles_per_image(g);
  const int64_t blocks = static_cast<int64_t>(call.blocks.size());
  // Few blocks mean a narrow input and a small weight: pixels are shared out instead, each share
  // with a weight gradient of its own.
  const int64_t shares = std::clamp<int64_t>(kTasks / blocks, 1, std::max<int64_t>(tiles, 1));
  std::vector<at::Tensor> partial(blocks * shares);
  for (int64_t i = 0; i < blocks * shares; ++i) {
    partial[i] = at::zeros_like(call.weights[i / shares]);
  }
  const Contraction<T> contraction(g);
  for_each_task(blocks * shares, call, [&](int64_t task, SampledTile<T>& tile) {
    const Block& block = call.blocks[task / shares];
    const int64_t share = task % shares;
    for (int64_t i = tiles * share / shares; i < tiles * (share + 1) / shares; ++i) {
      const PixelRange range = tile_range(i, g);
      tile.move_to(range);
      contraction.backward_weight(block, tile.sample(block), rows(grad_output, range, g),
                                  range.size(), partial[task]);
    }
  });
  std::vector<at::Tensor> gradients;
  for (int64_t block = 0; block < blocks; ++block) {
    at::Tensor sum = partial[block * shares];
    for (int64_t share = 1; share < shares; ++share) sum.add_(partial[block * shares + share]);
    gradients.push_back(sum);
  }
  return gradients;
}

template void sweep_forward(const Call<float>&, float*);
template void sweep_forward(const Call<double>&, double*);
template void sweep_backward_data(const Call<float>&, const float*, const GradTargets<float>&);
template void sweep_backward_data(const Call<double>&, const double*, const GradTargets<double>&);
template at::Tensor sweep_backward_bias<float>(const Geometry<int64_t>&, const at::Tensor&);
template at::Tensor sweep_backward_bias<double>(const Geometry<int64_t>&, const at::Tensor&);
template std::vector<at::Tensor> sweep_backward_weight(const Call<float>&, const float*);
template std::vector<at::Tensor> sweep_backward_weight(const Call<double>&, const double*);

}  // namespace mmdk::cpu
