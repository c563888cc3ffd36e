#include "common/checks.h"

#include <ATen/OpMathType.h>
#include <c10/util/Exception.h>

#include <limits>
#include <string>
#include <vector>

#include "common/sizes.h"

namespace mmdk {
namespace {

// As users write it.
std::string dtype_name(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return "torch.float32";
    case at::kDouble:
      return "torch.float64";
    case at::kHalf:
      return "torch.float16";
    case at::kBFloat16:
      return "torch.bfloat16";
    default:
      return at::toString(tensor.scalar_type());
  }
}

#define MMDK_CHECK(condition, ...) TORCH_CHECK_VALUE(condition, "deform_kernel2d: ", __VA_ARGS__)

// Products of two such numbers, and their sums with sizes of tensors, stay in 64 bits.
constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

Pair check_pair(const char* name, at::IntArrayRef values, int64_t least) {
  MMDK_CHECK(values.size() == 2, name, " must be an int or (height, width), got ", values);
  for (const int64_t value : values) {
    MMDK_CHECK(value >= least && value <= kLargest, name, " must be at least ", least,
               " and at most ", kLargest, " in height and width, got (", values[0], ", ", values[1],
               ")");
  }
  return {values[0], values[1]};
}

void check_rank(const char* name, const at::Tensor& tensor, int64_t rank, const char* axes) {
  MMDK_CHECK(tensor.dim() == rank, name, " must have ", rank, " dimensions ", axes, ", got ",
             tensor.dim(), " (shape ", tensor.sym_sizes(),
             rank == 4 && tensor.dim() == 3 ? "); add a batch dimension with unsqueeze(0)" : ")");
}

void check_device(const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  MMDK_CHECK(tensor.device() == input.device(), name, " is on ", tensor.device(),
             " but input is on ", input.device(), "; move both to one device");
}

void check_same_dtype(const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  MMDK_CHECK(tensor.scalar_type() == input.scalar_type(), name, " has dtype ", dtype_name(tensor),
             " but input has ", dtype_name(input), "; convert one of them with .to()");
}

// Offsets and masks are coordinates and factors: beside half inputs they may keep float32's
// accuracy.
void check_offset_dtype(const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  const auto own = tensor.scalar_type();
  const auto accumulation = at::toOpMathType(input.scalar_type());
  MMDK_CHECK(own == input.scalar_type() || own == accumulation, name, " has dtype ",
             dtype_name(tensor), ", expected the dtype of input, ", dtype_name(input),
             accumulation == input.scalar_type() ? "" : ", or torch.float32",
             "; convert it with .to()");
}

// Of `op`: its first tensor, which gives the others their dtype.
void check_floating(const char* op, const char* name, const at::Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  TORCH_CHECK_VALUE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      op, name, " has dtype ", dtype_name(tensor),
      ", expected torch.float32, float64, float16 or bfloat16; convert it with .to()");
}

// Number of offset groups of a per-position argument of `per_group` channels an offset group.
template <typename Int>
Int check_offsets(const char* name, const at::Tensor& offsets, const at::Tensor& input,
                  int64_t per_group, const char* channels, bool one_per_image,
                  const Geometry<Int>& geometry) {
  check_rank(name, offsets, 4, "(N, channels, H_out, W_out)");
  check_device(name, offsets, input);
  check_offset_dtype(name, offsets, input);
  const Int batch = size_of<Int>(offsets, 0), width = size_of<Int>(offsets, 1);
  MMDK_CHECK(batch == geometry.batch, name, " has batch size ", batch, " but input has ",
             geometry.batch);
  MMDK_CHECK(width > 0 && width % per_group == 0, name, " has ", width,
             " channels, expected a positive multiple of ", per_group, " = ", channels,
             " for kernel_size (", geometry.kernel[0], ", ", geometry.kernel[1],
             "): one such block for each offset group");
  const Int groups = width / per_group;
  MMDK_CHECK(geometry.in_channels % groups == 0, name, " has ", width, " channels, which makes ",
             groups, " offset groups of ", per_group, ", but the ", geometry.in_channels,
             " input channels cannot be divided into ", groups, " equal groups");
  const Int out_height = size_of<Int>(offsets, 2), out_width = size_of<Int>(offsets, 3);
  const bool per_position = out_height == geometry.out_height && out_width == geometry.out_width;
  const bool per_image = one_per_image && out_height == 1 && out_width == 1;
  MMDK_CHECK(per_position || per_image, name, " has spatial size (", out_height, ", ", out_width,
             "), expected the output's (", geometry.out_height, ", ", geometry.out_width, ")",
             one_per_image ? ", or (1, 1) for one kernel per image" : "",
             "; compute it with the stride, padding and dilation of this call");
  return groups;
}

template <typename Int>
void check_weight(const Arguments& a, Geometry<Int>& g) {
  check_rank("weight", a.weight, 4, "(C_out, C_in/groups, S_h, S_w)");
  check_device("weight", a.weight, a.input);
  check_same_dtype("weight", a.weight, a.input);
  g.out_channels = size_of<Int>(a.weight, 0);
  g.group_channels = size_of<Int>(a.weight, 1);
  g.scope_height = size_of<Int>(a.weight, 2);
  g.scope_width = size_of<Int>(a.weight, 3);
  MMDK_CHECK(g.out_channels > 0 && g.group_channels > 0, "weight has shape ", a.weight.sym_sizes(),
             ", expected at least one output and one input channel");
  MMDK_CHECK(g.in_channels % g.group_channels == 0, "weight takes ", g.group_channels,
             " input channels per group, which does not divide the ", g.in_channels,
             " channels of input; weight must be (C_out, C_in/groups, S_h, S_w)");
  g.groups = g.in_channels / g.group_channels;
  MMDK_CHECK(g.out_channels % g.groups == 0, "weight has ", g.out_channels,
             " output channels, which the ", g.groups, " groups (", g.in_channels,
             " input channels / ", g.group_channels, " per group) do not divide");
  MMDK_CHECK(g.scope_height >= g.kernel[0] && g.scope_width >= g.kernel[1],
             "the scope of weight, (", g.scope_height, ", ", g.scope_width,
             "), is smaller than kernel_size (", g.kernel[0], ", ", g.kernel[1],
             "); a kernel is sampled inside its scope: enlarge the scope");
}

template <typename Int>
void check_output_size(Geometry<Int>& g) {
  const Int height = g.height + 2 * g.padding[0] - g.dilation[0] * (g.kernel[0] - 1) - 1;
  const Int width = g.width + 2 * g.padding[1] - g.dilation[1] * (g.kernel[1] - 1) - 1;
  MMDK_CHECK(g.height > 0 && g.width > 0 && height >= 0 && width >= 0, "input of height ", g.height,
             " and width ", g.width, " gives no output for kernel_size (", g.kernel[0], ", ",
             g.kernel[1], "), padding (", g.padding[0], ", ", g.padding[1], ") and dilation (",
             g.dilation[0], ", ", g.dilation[1], "); enlarge the input or the padding");
  g.out_height = height / g.stride[0] + 1;
  g.out_width = width / g.stride[1] + 1;
}

}  // namespace

template <typename Int>
Geometry<Int> check_arguments(const Arguments& a) {
  Geometry<Int> g;
  check_rank("input", a.input, 4, "(N, C_in, H, W)");
  check_floating("deform_kernel2d: ", "input", a.input);
  g.batch = size_of<Int>(a.input, 0);
  g.in_channels = size_of<Int>(a.input, 1);
  g.height = size_of<Int>(a.input, 2);
  g.width = size_of<Int>(a.input, 3);
  MMDK_CHECK(g.in_channels > 0, "input has no channels (shape ", a.input.sym_sizes(), ")");
  g.kernel = check_pair("kernel_size", a.kernel_size, 1);
  g.stride = check_pair("stride", a.stride, 1);
  g.padding = check_pair("padding", a.padding, 0);
  g.dilation = check_pair("dilation", a.dilation, 1);
  check_weight(a, g);
  check_output_size(g);
  if (a.kernel_offset.has_value()) {
    g.kernel_offset_groups = check_offsets("kernel_offset", *a.kernel_offset, a.input, 2 * g.taps(),
                                           "K_h*K_w*2", /*one_per_image=*/true, g);
  }
  if (a.image_offset.has_value()) {
    g.image_offset_groups = check_offsets("image_offset", *a.image_offset, a.input, 2 * g.taps(),
                                          "K_h*K_w*2", /*one_per_image=*/false, g);
  }
  if (a.mask.has_value()) {
    const Int groups = check_offsets("mask", *a.mask, a.input, g.taps(), "K_h*K_w",
                                     /*one_per_image=*/false, g);
    MMDK_CHECK(!a.image_offset.has_value() || groups == g.image_offset_groups, "mask has ", groups,
               " offset groups but image_offset has ", g.image_offset_groups,
               "; both belong to the same look-ups and need as many");
    g.image_offset_groups = groups;
  }
  if (a.bias.has_value()) {
    check_rank("bias", *a.bias, 1, "(C_out,)");
    check_device("bias", *a.bias, a.input);
    check_same_dtype("bias", *a.bias, a.input);
    const Int size = size_of<Int>(*a.bias, 0);
    MMDK_CHECK(size == g.out_channels, "bias has ", size, " elements but weight has ",
               g.out_channels, " output channels");
  }
  return g;
}

template <typename Int>
void check_grad_output(const at::Tensor& grad_output, const Arguments& a, const Geometry<Int>& g) {
  check_rank("grad_output", grad_output, 4, "(N, C_out, H_out, W_out)");
  check_device("grad_output", grad_output, a.input);
  check_same_dtype("grad_output", grad_output, a.input);
  MMDK_CHECK(size_of<Int>(grad_output, 0) == g.batch &&
                 size_of<Int>(grad_output, 1) == g.out_channels &&
                 size_of<Int>(grad_output, 2) == g.out_height &&
                 size_of<Int>(grad_output, 3) == g.out_width,
             "grad_output has shape ", grad_output.sym_sizes(), ", expected the output's (",
             g.batch, ", ", g.out_channels, ", ", g.out_height, ", ", g.out_width, ")");
}

void check_sample_kernel(const at::Tensor& weight, const at::Tensor& kernel_offset,
                         at::IntArrayRef kernel_size) {
  const char* const op = "sample_kernel: ";
  TORCH_CHECK_VALUE(kernel_size.size() == 2 && kernel_size[0] >= 1 && kernel_size[1] >= 1, op,
                    "kernel_size must be a positive int or (height, width), got ", kernel_size);
  TORCH_CHECK_VALUE(weight.dim() == 4, op,
                    "weight must be (C_out, C_in/groups, S_h, S_w), got shape ",
                    weight.sym_sizes());
  check_floating(op, "weight", weight);
  TORCH_CHECK_VALUE(weight.sym_size(0) > 0 && weight.sym_size(1) > 0, op, "weight has shape ",
                    weight.sym_sizes(), ", expected at least one output and one input channel");
  TORCH_CHECK_VALUE(weight.sym_size(2) >= kernel_size[0] && weight.sym_size(3) >= kernel_size[1],
                    op, "the scope of weight, (", weight.sym_size(2), ", ", weight.sym_size(3),
                    "), is smaller than kernel_size ", kernel_size, "; enlarge the scope");
  const int64_t channels = kernel_size[0] * kernel_size[1] * 2;
  TORCH_CHECK_VALUE(kernel_offset.dim() == 2 && kernel_offset.sym_size(1) == channels, op,
                    "kernel_offset must be (N, K_h*K_w*2) = (N, ", channels, "), got shape ",
                    kernel_offset.sym_sizes());
  TORCH_CHECK_VALUE(kernel_offset.device() == weight.device(), op, "kernel_offset is on ",
                    kernel_offset.device(), " but weight is on ", weight.device(),
                    "; move both to one device");
  TORCH_CHECK_VALUE(kernel_offset.scalar_type() == weight.scalar_type() ||
                        kernel_offset.scalar_type() == at::toOpMathType(weight.scalar_type()),
                    op, "kernel_offset has dtype ", dtype_name(kernel_offset), " but weight has ",
                    dtype_name(weight), "; convert one of them with .to()");
}

void check_grad_kernels(const at::Tensor& grad_kernels, const at::Tensor& weight,
                        const at::Tensor& kernel_offset, at::IntArrayRef kernel_size) {
  const std::vector<c10::SymInt> expected{kernel_offset.sym_size(0), weight.sym_size(0),
                                          weight.sym_size(1), kernel_size[0], kernel_size[1]};
  TORCH_CHECK_VALUE(grad_kernels.sym_sizes() == c10::SymIntArrayRef(expected),
                    "sample_kernel: grad_kernels has shape ", grad_kernels.sym_sizes(),
                    ", expected the kernels' ", c10::SymIntArrayRef(expected));
  TORCH_CHECK_VALUE(grad_kernels.device() == weight.device(), "sample_kernel: grad_kernels is on ",
                    grad_kernels.device(), " but weight is on ", weight.device(),
                    "; move both to one device");
  TORCH_CHECK_VALUE(grad_kernels.scalar_type() == weight.scalar_type(),
                    "sample_kernel: grad_kernels has dtype ", dtype_name(grad_kernels),
                    " but weight has ", dtype_name(weight), "; convert one of them with .to()");
}

template Geometry<int64_t> check_arguments<int64_t>(const Arguments&);
template Geometry<c10::SymInt> check_arguments<c10::SymInt>(const Arguments&);
template void check_grad_output(const at::Tensor&, const Arguments&, const Geometry<int64_t>&);
template void check_grad_output(const at::Tensor&, const Arguments&, const Geometry<c10::SymInt>&);

}  // namespace mmdk
