// What results look like, for kernels and for shape inference alike.
#pragma once

#include <ATen/ATen.h>

namespace mmdk {

// Activations come out in the memory format input came in: channels_last or contiguous.
inline at::TensorOptions options_like(const at::Tensor& input) {
  return input.options().memory_format(input.suggest_memory_format());
}

// Operators cannot return "no tensor": a gradient nobody asked for is an empty one.
inline at::Tensor or_empty(const at::Tensor& gradient, const at::Tensor& like) {
  return gradient.defined() ? gradient : at::empty({0}, like.options());
}

}  // namespace mmdk
