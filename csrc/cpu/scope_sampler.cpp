#include "cpu/scope_sampler.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/bilinear.h"
#include "cpu/partition.h"
#include "cpu/simd/kernels.h"

namespace mmdk::cpu {
namespace {

// A look-up's four cells in (cells, rows), for rows from `first` on.
template <typename T>
struct Cells {
  int64_t place[4];
  T value[4];

  Cells(const Lookup<T>& lookup, int64_t width, int64_t rows, int64_t first) {
    int64_t i = 0;
    for_each_cell(lookup, width, [&](int64_t cell, T weight, T, T) {
      place[i] = cell * rows + first;
      value[i++] = weight;
    });
  }
};

// The offset group of each row.
std::vector<int64_t> groups_of_rows(const at::Tensor& weight, int64_t channels_in,
                                    int64_t offset_groups) {
  const int64_t outputs = weight.size(0), group_channels = weight.size(1);
  const int64_t groups = channels_in / group_channels;
  std::vector<int64_t> result;
  for (int64_t o = 0; o < outputs; ++o) {
    const int64_t first = o / (outputs / groups) * group_channels;
    for (int64_t c = 0; c < group_channels; ++c) {
      result.push_back((first + c) / (channels_in / offset_groups));
    }
  }
  return result;
}

}  // namespace

ScopeSampler::ScopeSampler(const at::Tensor& weight, const at::Tensor& offset,
                           at::IntArrayRef kernel_size, int64_t channels_in)
    : weight_(weight),
      offset_(offset),
      kernel_height_(kernel_size[0]),
      kernel_width_(kernel_size[1]),
      offset_groups_(offset.size(1) / (kernel_size[0] * kernel_size[1] * 2)) {
  const std::vector<int64_t> groups = groups_of_rows(weight, channels_in, offset_groups_);
  order_ = at::tensor(groups, at::kLong).argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  scope_ = weight.flatten(2).flatten(0, 1).index_select(0, order_).t().contiguous();
  for (int64_t group = 0; group <= offset_groups_; ++group) {
    first_row_.push_back(
        std::count_if(groups.begin(), groups.end(), [&](int64_t g) { return g < group; }));
  }
}

// Calls f(image, tap, group, number of y's offset, lookup) for look-ups [begin, end), counted over
// images, groups and taps, that are inside.
template <typename T, typename F>
void ScopeSampler::for_each_look_up(int64_t begin, int64_t end, const F& f) const {
  const int64_t taps = kernel_height_ * kernel_width_;
  const int64_t height = weight_.size(2), width = weight_.size(3);
  const T* offsets = offset_.const_data_ptr<T>();
  for (int64_t i = begin; i < end; ++i) {
    const int64_t tap = i % taps, group = i / taps % offset_groups_;
    const T y = rest_coordinate<T>(tap / kernel_width_, kernel_height_, height);
    const T x = rest_coordinate<T>(tap % kernel_width_, kernel_width_, width);
    const Lookup<T> lookup = look_up(y + offsets[i * 2], x + offsets[i * 2 + 1], height, width);
    if (lookup.inside) f(i / taps / offset_groups_, tap, group, i * 2, lookup);
  }
}

at::Tensor ScopeSampler::sample() const {
  const int64_t batch = offset_.size(0), taps = kernel_height_ * kernel_width_;
  const int64_t rows = scope_.size(1);
  at::Tensor kernels = at::zeros({batch, taps, rows}, scope_.options());
  AT_DISPATCH_FLOATING_TYPES(scope_.scalar_type(), "sample_kernel", [&] {
    const auto gather = simd::kernels<scalar_t>().gather;
    const scalar_t* from = scope_.const_data_ptr<scalar_t>();
    scalar_t* to = kernels.data_ptr<scalar_t>();
    run_tasks(offset_.numel() / 2, [&](int64_t begin, int64_t end) {
      for_each_look_up<scalar_t>(
          begin, end,
          [&](int64_t image, int64_t tap, int64_t group, int64_t, const Lookup<scalar_t>& lookup) {
            const int64_t first = first_row_[group];
            const Cells<scalar_t> cells(lookup, weight_.size(3), rows, first);
            gather(to + (image * taps + tap) * rows + first, from, cells.place, cells.value,
                   first_row_[group + 1] - first);
          });
    });
  });
  return at::empty_like(kernels)
      .index_copy_(2, order_, kernels)
      .transpose(1, 2)
      .reshape({batch, weight_.size(0), weight_.size(1), kernel_height_, kernel_width_})
      .contiguous();
}

template <typename T>
void ScopeSampler::add_offset_gradient(const at::Tensor& grad, const at::Tensor& to) const {
  const int64_t taps = kernel_height_ * kernel_width_, rows = scope_.size(1);
  const T* grads = grad.const_data_ptr<T>();
  const T* from = scope_.const_data_ptr<T>();
  T* sums = static_cast<T*>(to.data_ptr());
  run_tasks(offset_.numel() / 2, [&](int64_t begin, int64_t end) {
    for_each_look_up<T>(
        begin, end,
        [&](int64_t image, int64_t tap, int64_t group, int64_t y, const Lookup<T>& lookup) {
          const int64_t first = first_row_[group];
          const Cells<T> cells(lookup, weight_.size(3), rows, first);
          T along[4];
          simd::kernels<T>().dots(along, from, cells.place,
                                  grads + (image * taps + tap) * rows + first,
                                  first_row_[group + 1] - first);
          int64_t i = 0;
          for_each_cell(lookup, 0, [&](int64_t, T, T slope_y, T slope_x) {
            sums[y] += slope_y * along[i];
            sums[y + 1] += slope_x * along[i++];
          });
        });
  });
}

// Rows are shared out to threads, so each sum over images and taps has one order.
template <typename T>
void ScopeSampler::add_weight_gradient(const at::Tensor& grad, const at::Tensor& to) const {
  constexpr int64_t rows_per_task = 256;
  const int64_t taps = kernel_height_ * kernel_width_, rows = scope_.size(1);
  const T* grads = grad.const_data_ptr<T>();
  T* sums = static_cast<T*>(to.data_ptr());
  run_tasks((rows + rows_per_task - 1) / rows_per_task, [&](int64_t begin, int64_t end) {
    const int64_t from_row = begin * rows_per_task, to_row = std::min(end * rows_per_task, rows);
    for_each_look_up<T>(
        0, offset_.numel() / 2,
        [&](int64_t image, int64_t tap, int64_t group, int64_t, const Lookup<T>& lookup) {
          const int64_t first = std::max(first_row_[group], from_row);
          const int64_t last = std::min(first_row_[group + 1], to_row);
          if (first >= last) return;
          const Cells<T> cells(lookup, weight_.size(3), rows, first);
          simd::kernels<T>().scatter(sums, cells.place, cells.value,
                                     grads + (image * taps + tap) * rows + first, last - first);
        });
  });
}

ScopeSampler::Gradients ScopeSampler::backward(const at::Tensor& grad_kernels, bool weight,
                                               bool offset) const {
  const int64_t batch = offset_.size(0), taps = kernel_height_ * kernel_width_;
  const at::Tensor grad = grad_kernels.reshape({batch, scope_.size(1), taps})
                              .transpose(1, 2)
                              .index_select(2, order_)
                              .contiguous();
  Gradients to;
  at::Tensor grad_scope;
  if (weight) grad_scope = at::zeros_like(scope_);
  if (offset) to.offset = at::zeros_like(offset_);
  AT_DISPATCH_FLOATING_TYPES(scope_.scalar_type(), "sample_kernel_backward", [&] {
    if (weight) add_weight_gradient<scalar_t>(grad, grad_scope);
    if (offset) add_offset_gradient<scalar_t>(grad, to.offset);
  });
  if (weight) {
    to.weight = at::empty_like(grad_scope)
                    .index_copy_(1, order_, grad_scope)
                    .t()
                    .reshape(weight_.sizes())
                    .contiguous();
  }
  return to;
}

}  // namespace mmdk::cpu
