r"""What the operators cost, for the FLOP counters of PyTorch and MMEngine.

Both libraries know an operator by name and count 0 for one they do not know. Importing this module
tells `torch.utils.flop_counter.FlopCounterMode`, which counts 2 FLOPs for a multiply-add, and
`mmengine.analysis.get_model_complexity_info`, which counts 1.

A forward pass has four steps. With P output positions, :math:`T = K_h K_w` taps, :math:`S = S_h
S_w` cells and per image, their multiply-adds are

=================  =================================================================
look x up          :math:`4 T C_{in} P` with `image_offset`, else 0
multiply by m      :math:`T C_{in} P` with `mask`, else 0
look W up          per position, :math:`4 T C_{in} P`; one kernel per image,
                   :math:`4 T C_{out} C_{in}/groups`; no `kernel_offset`, 0, or the
                   same once a batch where taps rest between cells (S - K odd)
product            :math:`T P C_{out} C_{in}/groups`; a dense or grouped
                   convolution with offsets per position has S in place of T
=================  =================================================================

since a bilinear look-up is a sum of four products, and a dense or grouped convolution with offsets
per position resamples the data, into S columns per input channel, instead of a kernel per pair of
channels. As everywhere, the bias, and what is done once for all channels (here: the coefficients of
a look-up), are not counted.

Each step is linear in each of two operands, and its derivative with respect to one of them costs
what the step does. So a backward pass costs each step once for each operand through which a wanted
gradient passes; and it repeats the look-ups whose values the gradient of another operand needs,
because they are not kept. A plain convolution's 1 + 1, for input and weight, is the case without
look-ups.
"""

import math
from collections.abc import Callable, Sequence

import mmengine.analysis.complexity_analysis as mmengine_counter
import torch
import torch.utils.flop_counter as torch_counter
from mmengine.analysis.jit_handles import generic_activation_jit
from mmengine.analysis.jit_handles import get_shape as traced_shape

__all__ = [
    'deform_kernel2d_backward_multiply_adds',
    'deform_kernel2d_multiply_adds',
    'sample_kernel_backward_multiply_adds',
    'sample_kernel_multiply_adds',
]

Shape = Sequence[int]


class _Steps:
    """The multiply-adds of the four steps of a forward pass."""

    def __init__(
        self,
        output: Shape,
        input: Shape,
        weight: Shape,
        kernel_offset: Shape | None,
        image_offset: Shape | None,
        mask: Shape | None,
        kernel_size: Shape,
    ):
        positions = output[0] * math.prod(output[2:])
        taps, scope = math.prod(kernel_size), weight[2:]
        tapped = taps * input[1] * positions
        kernel = taps * weight[0] * weight[1]
        depthwise = weight[1] == 1 and weight[0] == input[1]
        per_position = kernel_offset is not None and tuple(kernel_offset[2:]) == tuple(output[2:])
        self.resamples_data = per_position and not depthwise

        self.image = 4 * tapped if image_offset is not None else 0
        self.mask = tapped if mask is not None else 0
        if per_position:
            self.kernel = 4 * tapped
        elif kernel_offset is not None:
            self.kernel = 4 * kernel * output[0]
        else:
            between = any((s - k) % 2 for s, k in zip(scope, kernel_size, strict=True))
            self.kernel = 4 * kernel if between else 0
        columns = math.prod(scope) if self.resamples_data else taps
        self.product = columns * weight[0] * weight[1] * positions


def deform_kernel2d_multiply_adds(
    output: Shape,
    input: Shape,
    weight: Shape,
    kernel_offset: Shape | None,
    image_offset: Shape | None,
    mask: Shape | None,
    kernel_size: Shape,
) -> int:
    """Multiply-adds of `deform_kernel2d`, from the shapes of its result and arguments.

    Example:
        >>> dense = (1, 16, 20, 20), (1, 8, 20, 20), (16, 8, 4, 4)
        >>> deform_kernel2d_multiply_adds(*dense, (1, 18, 20, 20), None, None, (3, 3))
        934400
        >>> (4 * 9 * 8 + 16 * 8 * 16) * 20 * 20
        934400
    """
    steps = _Steps(output, input, weight, kernel_offset, image_offset, mask, kernel_size)
    return steps.image + steps.mask + steps.kernel + steps.product


def deform_kernel2d_backward_multiply_adds(
    output: Shape,
    input: Shape,
    weight: Shape,
    kernel_offset: Shape | None,
    image_offset: Shape | None,
    mask: Shape | None,
    kernel_size: Shape,
    output_mask: Sequence[bool],
) -> int:
    """Multiply-adds of its backward, for the gradients wanted in `output_mask`.

    Example:
        >>> plain = (1, 16, 20, 20), (1, 8, 20, 20), (16, 8, 3, 3), None, None, None, (3, 3)
        >>> wanted = [True, True, False, False, False, False]
        >>> deform_kernel2d_backward_multiply_adds(*plain, wanted)
        921600
        >>> 2 * 9 * 8 * 16 * 20 * 20
        921600
    """
    steps = _Steps(output, input, weight, kernel_offset, image_offset, mask, kernel_size)
    to_input, to_weight, to_kernel_offset, to_image_offset, to_mask = output_mask[:5]
    looked_up = to_input or to_image_offset  # the gradient goes on below the mask
    data = looked_up or to_mask
    kernel = to_weight or to_kernel_offset
    count = steps.image * (to_input + to_image_offset) + steps.mask * (looked_up + to_mask)
    if kernel:  # needs m x again
        count += steps.image + steps.mask
    elif to_mask:  # needs x again
        count += steps.image
    if steps.resamples_data:
        # y = W Z, Z = B x: dW needs Z again; dB and dx need dZ.
        count += steps.product * (to_weight + (data or to_kernel_offset))
        count += steps.kernel * (to_weight + data + to_kernel_offset)
    else:
        # y = w x, w = B W: dx needs w again; dB and dW need dw.
        count += steps.product * (kernel + data)
        count += steps.kernel * (data + to_weight + to_kernel_offset)
    return count


def sample_kernel_multiply_adds(kernels: Shape) -> int:
    """Multiply-adds of `sample_kernel`: a look-up for each element of its result.

    Example:
        >>> sample_kernel_multiply_adds((2, 16, 8, 3, 3))
        9216
    """
    return 4 * math.prod(kernels)


def sample_kernel_backward_multiply_adds(kernels: Shape, output_mask: Sequence[bool]) -> int:
    """Multiply-adds of its backward: the look-ups once for each wanted gradient."""
    return sample_kernel_multiply_adds(kernels) * sum(output_mask)


# For PyTorch: schema arguments with shapes in place of tensors.


def _deform_kernel2d(x, w, dk, di, m, bias, kernel_size, *geometry, out_shape=None, **kwargs):
    return 2 * deform_kernel2d_multiply_adds(out_shape, x, w, dk, di, m, kernel_size)


def _deform_kernel2d_backward(
    grad, x, w, dk, di, m, bias, kernel_size, stride, padding, dilation, wanted, **kwargs
):
    return 2 * deform_kernel2d_backward_multiply_adds(grad, x, w, dk, di, m, kernel_size, wanted)


def _sample_kernel(weight, kernel_offset, kernel_size, out_shape=None, **kwargs):
    return 2 * sample_kernel_multiply_adds(out_shape)


def _sample_kernel_backward(grad, weight, kernel_offset, kernel_size, wanted, **kwargs):
    return 2 * sample_kernel_backward_multiply_adds(grad, wanted)


def _register_with_torch(name: str, formula: Callable[..., int]) -> None:
    operator = getattr(torch.ops.mmdk, name)
    if hasattr(torch_counter, 'register_flop_formula'):
        torch_counter.register_flop_formula(operator)(formula)
    else:  # PyTorch 2.1
        torch_counter.flop_mapping[operator] = formula


# For MMEngine: values of a traced graph, forward only.


def _traced_deform_kernel2d(inputs: list, outputs: list) -> int:
    shapes = [traced_shape(value) for value in (outputs[0], *inputs[:5])]
    kernel_size = [value.toIValue() for value in inputs[6].node().inputs()]
    return deform_kernel2d_multiply_adds(*shapes, kernel_size)


def _traced_sample_kernel(inputs: list, outputs: list) -> int:
    return sample_kernel_multiply_adds(traced_shape(outputs[0]))


def _register_with_mmengine(name: str, handle: Callable[[list, list], int]) -> None:
    # It has no public way to add to the operators that every count knows; should it lose these
    # tables, it will report the operator as unsupported.
    for table, value in (
        ('_DEFAULT_SUPPORTED_FLOP_OPS', handle),
        ('_DEFAULT_SUPPORTED_ACT_OPS', generic_activation_jit(name)),
    ):
        getattr(mmengine_counter, table, {})[f'mmdk::{name}'] = value


_register_with_torch('deform_kernel2d', _deform_kernel2d)
_register_with_torch('deform_kernel2d_backward', _deform_kernel2d_backward)
_register_with_torch('sample_kernel', _sample_kernel)
_register_with_torch('sample_kernel_backward', _sample_kernel_backward)
_register_with_mmengine('deform_kernel2d', _traced_deform_kernel2d)
_register_with_mmengine('sample_kernel', _traced_sample_kernel)
