// Memory that starts at a cache line: a vector that straddles two lines costs twice.
#pragma once

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>

namespace mmdk::cpu {

template <typename T>
class AlignedBuffer {
 public:
  // All zero.
  explicit AlignedBuffer(int64_t size)
      : size_(size), memory_(c10::GetCPUAllocator()->allocate(size * sizeof(T))) {
    fill_zero();
  }

  T* data() const { return static_cast<T*>(memory_.get()); }
  int64_t size() const { return size_; }
  void fill_zero() { std::fill_n(data(), size_, T(0)); }

 private:
  int64_t size_;
  c10::DataPtr memory_;
};

}  // namespace mmdk::cpu
