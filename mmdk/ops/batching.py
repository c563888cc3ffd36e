"""`torch.func.vmap` over `deform_kernel2d` and its backward, without a loop.

The added axis is folded into one that the operator has: into the batch where weight and bias are
shared, else into the channels, where each of its entries becomes groups of its own. Everything
belongs to groups of contiguous channels, so both compute the same as one call for each entry.

PyTorch before 2.5, and `sample_kernel` everywhere, take PyTorch's own way: a loop, with a warning.
"""

import torch
from torch import Tensor

INPUT, WEIGHT, BIAS = 0, 1, 5  # among the tensor arguments of deform_kernel2d


def _fold(tensor: Tensor | None, dim: int | None, size: int, axis: int) -> Tensor | None:
    """Merge axis `dim` of length `size` (None: a shared tensor, repeated) into `axis`."""
    if tensor is None:
        return None
    if dim is None:
        tensor = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], size, *tensor.shape[axis:])
    else:
        tensor = tensor.movedim(dim, axis)
    return tensor.flatten(axis, axis + 1)


def _unfold(tensor: Tensor, size: int, axis: int, length: int) -> Tensor:
    """Undo `_fold`; `length` is what `axis` has in each of the `size` entries, perhaps none."""
    return tensor.unflatten(axis, (size, length))


def _length(tensor: Tensor, dim: int | None, axis: int) -> int:
    """Length of an axis of one entry."""
    shape = list(tensor.shape)
    if dim is not None:
        del shape[dim]
    return shape[axis]


def _channel_axis(argument: int) -> int:
    return 0 if argument in (WEIGHT, BIAS) else 1


def _deform_kernel2d(info, in_dims, *args):
    tensors, geometry = args[:6], args[6:]
    shared = in_dims[WEIGHT] is None and in_dims[BIAS] is None
    folded = [
        tensor
        if shared and i in (WEIGHT, BIAS)
        else _fold(tensor, in_dims[i], info.batch_size, 0 if shared else _channel_axis(i))
        for i, tensor in enumerate(tensors)
    ]
    output = torch.ops.mmdk.deform_kernel2d(*folded, *geometry)
    axis = 0 if shared else 1
    along = INPUT if shared else WEIGHT  # images come from the one, channels from the other
    return _unfold(output, info.batch_size, axis, _length(tensors[along], in_dims[along], 0)), axis


def _deform_kernel2d_backward(info, in_dims, grad_output, *args):
    # Always into the channels: each entry has a weight gradient of its own.
    tensors, geometry, wanted = args[:6], args[6:-1], args[-1]
    axes = [_channel_axis(i) for i in range(6)]
    gradients = torch.ops.mmdk.deform_kernel2d_backward(
        _fold(grad_output, in_dims[0], info.batch_size, 1),
        *(
            _fold(tensor, dim, info.batch_size, axis)
            for tensor, dim, axis in zip(tensors, in_dims[1:7], axes, strict=True)
        ),
        *geometry,
        wanted,
    )
    # An absent or unwanted gradient is an empty tensor, the same for all.
    present = [w and tensor is not None for w, tensor in zip(wanted, tensors, strict=True)]
    return (
        tuple(
            _unfold(gradient, info.batch_size, axis, _length(tensor, dim, axis))
            if there
            else gradient
            for gradient, tensor, dim, axis, there in zip(
                gradients, tensors, in_dims[1:7], axes, present, strict=True
            )
        ),
        tuple(axis if there else None for axis, there in zip(axes, present, strict=True)),
    )


if hasattr(torch.library, 'register_vmap'):
    torch.library.register_vmap('mmdk::deform_kernel2d', _deform_kernel2d)
    torch.library.register_vmap('mmdk::deform_kernel2d_backward', _deform_kernel2d_backward)
