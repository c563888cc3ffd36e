// Sizes of a tensor as plain or as symbolic integers, chosen by a template argument.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <type_traits>

namespace mmdk {

template <typename Int>
Int size_of(const at::Tensor& tensor, int64_t dim) {
  if constexpr (std::is_same_v<Int, c10::SymInt>) {
    return tensor.sym_size(dim);
  } else {
    return tensor.size(dim);
  }
}

}  // namespace mmdk
