// Depthwise kernels: each output pixel's kernel is sampled from the scope and applied at once.
#pragma once

#include "cpu/activation.h"
#include "cpu/call.h"

namespace mmdk::cpu {

template <typename T>
void depthwise_forward(const Call& call, const Activation& output);

// Gradients but that of the bias.
template <typename T>
void depthwise_backward(const Call& call, const Activation& grad_output, const Gradients& to);

}  // namespace mmdk::cpu
