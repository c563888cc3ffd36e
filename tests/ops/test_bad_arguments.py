"""Every wrong call names the argument, what came and what was expected, and harms nothing."""

import pytest
import torch

from mmdk.ops import deform_kernel2d
from tests.ops.cases import EVERYTHING

# EVERYTHING: input (2, 6, 7, 11), weight (4, 3, 4, 4), kernel_offset (2, 54, 7, 11),
# image_offset (2, 36, 7, 11), mask (2, 18, 7, 11), bias (4,).
BAD = {
    'input_rank': ({'input': (6, 7, 11)}, r'input must have 4 dimensions .*unsqueeze'),
    'weight_rank': ({'weight': (4, 3, 4)}, r'weight must have 4 dimensions \(C_out'),
    'kernel_offset_rank': ({'kernel_offset': (2, 54)}, 'kernel_offset must have 4 dimensions'),
    'image_offset_rank': ({'image_offset': (2, 36)}, 'image_offset must have 4 dimensions'),
    'mask_rank': ({'mask': (2, 18)}, 'mask must have 4 dimensions'),
    'bias_rank': ({'bias': (4, 1)}, r'bias must have 1 dimensions \(C_out,\)'),
    'no_channels': ({'input': (2, 0, 7, 11)}, 'input has no channels'),
    'no_outputs': ({'weight': (0, 3, 4, 4)}, 'at least one output'),
    'group_channels': ({'weight': (4, 4, 4, 4)}, 'weight takes 4 input channels per group.*the 6'),
    'out_channels': ({'weight': (5, 3, 4, 4)}, 'weight has 5 output channels, which the 2 groups'),
    'small_scope': ({'weight': (4, 3, 4, 2)}, r'scope of weight, \(4, 2\), is smaller than kernel'),
    'bias_size': ({'bias': (3,)}, 'bias has 3 elements but weight has 4 output channels'),
    'offset_batch': (
        {'kernel_offset': (1, 54, 7, 11)},
        'kernel_offset has batch size 1 but input has 2',
    ),
    'offset_channels': (
        {'kernel_offset': (2, 20, 7, 11)},
        r'20 channels, .*multiple of 18 = K_h\*K_w\*2',
    ),
    'image_channels': ({'image_offset': (2, 19, 7, 11)}, 'image_offset has 19 channels'),
    'mask_channels': (
        {'mask': (2, 10, 7, 11)},
        r'mask has 10 channels, .*multiple of 9 = K_h\*K_w',
    ),
    'no_offset_channels': ({'kernel_offset': (2, 0, 7, 11)}, 'positive multiple'),
    'offset_groups': ({'kernel_offset': (2, 72, 7, 11)}, '4 offset groups .* 6 input channels'),
    'offset_size': (
        {'kernel_offset': (2, 54, 7, 10)},
        r'spatial size \(7, 10\), .*\(7, 11\).*\(1, 1\)',
    ),
    'image_size': ({'image_offset': (2, 36, 1, 1)}, r"image_offset has .* the output's \(7, 11\);"),
    'mask_size': ({'mask': (2, 18, 11, 7)}, r'mask has spatial size \(11, 7\)'),
    'mask_groups': ({'mask': (2, 9, 7, 11)}, 'mask has 1 offset groups but image_offset has 2'),
    'integer_input': ({'input': torch.int64}, 'input has dtype Long, expected torch.float32'),
    'weight_dtype': (
        {'weight': torch.float32},
        'weight has dtype torch.float32 but input has torch.float64',
    ),
    'bias_dtype': ({'bias': torch.float32}, 'bias has dtype torch.float32'),
    'offset_dtype': (
        {'kernel_offset': torch.float32},
        r'kernel_offset has dtype torch.float32, .*\.to\(\)',
    ),
    'mask_dtype': ({'mask': torch.bool}, 'mask has dtype Bool'),
    'weight_device': ({'weight': 'meta'}, 'weight is on meta but input is on cpu'),
    'offset_device': ({'kernel_offset': 'meta'}, 'kernel_offset is on meta but input is on cpu'),
    'bias_device': ({'bias': 'meta'}, 'bias is on meta'),
    'zero_stride': ({'stride': 0}, r'stride must be at least 1 .*got \(0, 0\)'),
    'negative_padding': ({'padding': (1, -1)}, r'padding must be at least 0 .*got \(1, -1\)'),
    'zero_dilation': ({'dilation': (0, 1)}, 'dilation must be at least 1'),
    'zero_kernel': ({'kernel_size': 0}, 'kernel_size must be at least 1'),
    'huge_padding': ({'padding': 2**62}, r'padding must be at least 0 and at most \d+'),
    'huge_dilation': ({'dilation': 2**62}, r'dilation must be at least 1 and at most \d+'),
    'three_strides': ({'stride': (1, 1, 1)}, 'stride must be an int or'),
    'no_output': ({'padding': 0, 'dilation': 4}, 'input of height 7 and width 11 gives no output'),
    'empty_image': ({'input': (2, 6, 0, 11)}, 'input of height 0 and width 11 gives no output'),
}


def changed(tensors, geometry, change):
    for name, value in change.items():
        if name in geometry:
            geometry[name] = value
        elif isinstance(value, tuple):
            tensors[name] = torch.zeros(value, dtype=torch.float64)
        else:
            tensors[name] = tensors[name].to(value)
    return {**tensors, **geometry}


@pytest.mark.parametrize('change, message', BAD.values(), ids=BAD)
def test_message(change, message):
    arguments = changed(EVERYTHING.tensors(), dict(EVERYTHING.geometry), change)
    with pytest.raises(ValueError, match=f'(?s)deform_kernel2d: .*{message}'):
        deform_kernel2d(**arguments)


@pytest.mark.parametrize('name', ['zero_stride', 'offset_size', 'small_scope', 'no_output'])
def test_same_message_when_only_shapes_are_computed(name):
    change, message = BAD[name]
    arguments = changed(EVERYTHING.tensors(), dict(EVERYTHING.geometry), change)
    arguments = {
        k: v.to('meta') if isinstance(v, torch.Tensor) else v for k, v in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        deform_kernel2d(**arguments)


def test_wrong_gradient_shape_in_backward():
    tensors = EVERYTHING.tensors()
    geometry = [list(value) for value in EVERYTHING.geometry.values()]
    with pytest.raises(ValueError, match=r'grad_output has shape .* expected .*\(2, 4, 7, 11\)'):
        torch.ops.mmdk.deform_kernel2d_backward(
            torch.zeros(2, 4, 7, 10, dtype=torch.float64), *tensors.values(), *geometry, [True] * 6
        )
