#include "cpu/contraction.h"

#include <ATen/ATen.h>

namespace mmdk::cpu {
namespace {

template <typename T>
at::Tensor matrix(const T* data, int64_t rows, int64_t columns, int64_t row_stride) {
  return at::from_blob(const_cast<T*>(data), {rows, columns}, {row_stride, 1},
                       at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value));
}

}  // namespace

template <typename T>
at::Tensor Contraction<T>::group_columns(const Block& block, const T* rows, int64_t pixels) const {
  const int64_t columns = geometry_.out_channels / geometry_.groups;
  return matrix(rows + block.group * columns, pixels, columns, geometry_.out_channels);
}

template <typename T>
at::Tensor Contraction<T>::tile(const Block& block, T* z, int64_t pixels) const {
  const int64_t columns = geometry_.cells() * block.width();
  return matrix(z, pixels, columns, columns);
}

template <typename T>
void Contraction<T>::forward(const Block& block, const at::Tensor& weight, T* z, int64_t pixels,
                             T* output) const {
  if (!geometry_.depthwise()) {
    at::Tensor columns = group_columns(block, output, pixels);
    columns.addmm_(tile(block, z, pixels), weight.flatten(1).t());
    return;
  }
  const T* w = weight.const_data_ptr<T>();
  const int64_t width = block.width(), cells = geometry_.cells();
  for (int64_t p = 0; p < pixels; ++p) {
    T* y = output + p * geometry_.out_channels + block.begin;
    for (int64_t cell = 0; cell < cells; ++cell) {
      const T* z_cell = z + (p * cells + cell) * width;
      const T* w_cell = w + cell * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) y[c] += z_cell[c] * w_cell[c];
    }
  }
}

template <typename T>
void Contraction<T>::backward_data(const Block& block, const at::Tensor& weight,
                                   const T* grad_output, int64_t pixels, T* grad_z) const {
  if (!geometry_.depthwise()) {
    at::Tensor result = tile(block, grad_z, pixels);
    at::mm_out(result, group_columns(block, grad_output, pixels), weight.flatten(1));
    return;
  }
  const T* w = weight.const_data_ptr<T>();
  const int64_t width = block.width(), cells = geometry_.cells();
  for (int64_t p = 0; p < pixels; ++p) {
    const T* grad = grad_output + p * geometry_.out_channels + block.begin;
    for (int64_t cell = 0; cell < cells; ++cell) {
      T* z_cell = grad_z + (p * cells + cell) * width;
      const T* w_cell = w + cell * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) z_cell[c] = grad[c] * w_cell[c];
    }
  }
}

template <typename T>
void Contraction<T>::backward_weight(const Block& block, T* z, const T* grad_output, int64_t pixels,
                                     at::Tensor& grad_weight) const {
  if (!geometry_.depthwise()) {
    at::Tensor result = grad_weight.flatten(1);
    result.addmm_(group_columns(block, grad_output, pixels).t(), tile(block, z, pixels));
    return;
  }
  T* w = grad_weight.data_ptr<T>();
  const int64_t width = block.width(), cells = geometry_.cells();
  for (int64_t p = 0; p < pixels; ++p) {
    const T* grad = grad_output + p * geometry_.out_channels + block.begin;
    for (int64_t cell = 0; cell < cells; ++cell) {
      const T* z_cell = z + (p * cells + cell) * width;
      T* w_cell = w + cell * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) w_cell[c] += grad[c] * z_cell[c];
    }
  }
}

template class Contraction<float>;
template class Contraction<double>;

}  // namespace mmdk::cpu
