"""The layer 'DK': construction, initial state, forward, state dicts."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.ops import reference

CONVOLUTIONS = {
    'plain': ((6, 4, 3), {'padding': 1}),
    'depthwise': ((6, 6, 3), {'padding': 1, 'groups': 6, 'bias': False}),
    'grouped_strided': ((6, 8, (3, 2)), {'stride': (2, 1), 'groups': 2}),
    'dilated': ((6, 4, 3), {'padding': (2, 3), 'dilation': (2, 3)}),
    'pointwise': ((6, 4, 1), {}),
    'same': ((6, 4, 5), {'padding': 'same', 'dilation': 2}),
    'valid': ((6, 4, 3), {'padding': 'valid'}),
    'reflect': ((6, 4, 3), {'padding': 1, 'padding_mode': 'reflect'}),
    'circular': ((6, 4, 3), {'padding': (2, 1), 'padding_mode': 'circular'}),
}


def learnt(layer, scale=0.5):
    """Give a layer offsets that move."""
    nn.init.normal_(layer.conv_offset.weight, std=scale / layer.in_channels)
    nn.init.normal_(layer.conv_offset.bias, std=scale)
    return layer


@pytest.mark.parametrize('args, kwargs', CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_starts_as_the_convolution_it_replaces(args, kwargs):
    """Same arguments, same state dict, same output."""
    plain = nn.Conv2d(*args, **kwargs)
    layer = DeformKernel2d(*args, **kwargs)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('args, kwargs', CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_same_seed_same_initial_output_as_conv2d(args, kwargs):
    """The initial sampled kernel is not only distributed like nn.Conv2d's, it is the same draw."""
    torch.manual_seed(3)
    plain = nn.Conv2d(*args, **kwargs)
    torch.manual_seed(3)
    layer = DeformKernel2d(*args, **kwargs)
    x = torch.randn(1, 6, 9, 11)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


def test_forward_is_the_definition():
    layer = learnt(DeformKernel2d(6, 4, 3, stride=2, padding=1, groups=2, offset_groups=3)).double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    offset = nn.functional.conv2d(x, layer.conv_offset.weight, layer.conv_offset.bias, 2, 1)
    assert offset.abs().mean() > 0.2
    expected = reference.deform_kernel2d(
        x, layer.weight, offset, bias=layer.bias, kernel_size=3, stride=2, padding=1
    )
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.kernel_offset(x), offset)


@pytest.mark.parametrize(
    'kernel_size, scope_size, expected',
    [
        (3, None, (4, 4)),
        (1, None, (2, 2)),
        ((1, 5), None, (2, 6)),
        (3, 5, (5, 5)),
        (3, (3, 6), (3, 6)),
    ],
)
def test_scope_size(kernel_size, scope_size, expected):
    layer = DeformKernel2d(2, 3, kernel_size, scope_size=scope_size)
    assert layer.scope_size == expected
    assert layer.weight.shape == (3, 2, *expected)


@pytest.mark.parametrize('clip', [0.3, 2])
def test_clip_to_a_number(clip):
    layer = learnt(DeformKernel2d(2, 2, 3, offset_clip=clip), scale=3)
    offset = layer.kernel_offset(torch.randn(1, 2, 8, 8)).detach()
    assert offset.abs().max() == pytest.approx(clip)
    assert (offset.abs() < clip).any()


def test_clip_to_the_scope():
    """Every coordinate stays between the first and the last cell, height and width apart."""
    layer = learnt(
        DeformKernel2d(4, 4, (3, 2), scope_size=(4, 5), offset_groups=2, offset_clip='scope'),
        scale=5,
    )
    offset = layer.kernel_offset(torch.randn(2, 4, 8, 8)).detach().view(2, 2, 6, 2, 6, 7)
    taps = torch.cartesian_prod(torch.arange(3), torch.arange(2)) + torch.tensor([0.5, 1.5])
    coordinate = offset + taps[None, None, :, :, None, None]
    for axis, last in enumerate((3, 4)):
        assert coordinate[:, :, :, axis].min() == pytest.approx(0, abs=1e-5)
        assert coordinate[:, :, :, axis].max() == pytest.approx(last, abs=1e-5)


def test_lists_and_numpy_ints_are_taken_as_configs_and_code_give_them():
    layer = DeformKernel2d(np.int64(4), 4, [3, np.int64(2)], stride=[2, 1], scope_size=[4, 4])
    assert (layer.kernel_size, layer.stride, layer.scope_size) == ((3, 2), (2, 1), (4, 4))
    assert layer(torch.randn(1, 4, 5, 5)).shape == (1, 4, 2, 4)


@pytest.mark.parametrize('clip', [None, 'scope', 0.5])
def test_compiles(clip):
    layer = learnt(DeformKernel2d(4, 6, 3, padding=1, groups=2, offset_clip=clip))
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend='aot_eager')
    for shape in ((2, 4, 7, 6), (3, 4, 10, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.skipif(
    not hasattr(torch.export, 'Dim'), reason='this PyTorch exports no shapes that vary'
)
@pytest.mark.parametrize('clip', [None, 'scope', 0.5])
def test_exports(clip):
    layer = learnt(DeformKernel2d(4, 6, 3, padding=1, groups=2, offset_clip=clip))
    size = {axis: torch.export.Dim(axis, min=2, max=64) for axis in ('n', 'h', 'w')}
    exported = torch.export.export(
        layer,
        (torch.randn(2, 4, 8, 9),),
        dynamic_shapes=({0: size['n'], 2: size['h'], 3: size['w']},),
    ).module()
    for shape in ((2, 4, 7, 6), (3, 4, 10, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), layer(x))


def test_clip_to_the_scope_is_no_part_of_the_state():
    clipped = DeformKernel2d(2, 2, 3, offset_clip='scope')
    assert clipped.state_dict().keys() == DeformKernel2d(2, 2, 3).state_dict().keys()


def test_offsets_and_scope_both_learn():
    layer = DeformKernel2d(4, 4, 3, padding=1)
    layer(torch.randn(2, 4, 6, 6)).square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_no_rois():
    layer = DeformKernel2d(4, 6, 3, padding=1)
    output = layer(torch.zeros(0, 4, 7, 7))
    assert output.shape == (0, 6, 7, 7)
    output.sum().backward()
    assert all(not parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize('copier', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copier):
    layer = learnt(DeformKernel2d(4, 4, 3, offset_clip='scope'))
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(copier(layer)(x), layer(x))


def test_saves_and_loads(tmp_path):
    layer, other = learnt(DeformKernel2d(4, 4, 3)), DeformKernel2d(4, 4, 3)
    torch.save(layer.state_dict(), tmp_path / 'layer.pth')
    other.load_state_dict(torch.load(tmp_path / 'layer.pth', weights_only=True))
    for name, value in layer.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_names_in_the_state_dict():
    names = {'weight', 'bias', 'conv_offset.weight', 'conv_offset.bias'}
    assert DeformKernel2d(2, 2, 3).state_dict().keys() == names


def test_extra_repr_tells_the_whole_configuration():
    text = repr(
        DeformKernel2d(
            4,
            8,
            (3, 1),
            2,
            1,
            3,
            2,
            False,
            'reflect',
            scope_size=(5, 2),
            offset_groups=4,
            offset_clip='scope',
        )
    )
    for part in (
        '4, 8',
        'kernel_size=(3, 1)',
        'scope_size=(5, 2)',
        'stride=(2, 2)',
        'padding=(1, 1)',
        'dilation=(3, 3)',
        'groups=2',
        'bias=False',
        "padding_mode='reflect'",
        'offset_groups=4',
        "offset_clip='scope'",
    ):
        assert part in text


@pytest.mark.parametrize(
    'kwargs, message',
    [
        ({'scope_size': 2}, r'scope_size \(2, 2\) is smaller than kernel_size \(3, 3\)'),
        ({'scope_size': (4, 2)}, r'scope_size \(4, 2\) is smaller'),
        ({'scope_size': 4.5}, 'scope_size must be an int'),
        ({'groups': 3}, 'groups=3 does not divide in_channels=4'),
        ({'groups': 0}, 'groups must be an int of at least 1, got 0'),
        ({'groups': True}, 'groups must be .* got True'),
        ({'stride': 0}, 'stride must be .* at least 1, got 0'),
        ({'padding': -1}, 'padding must be .* at least 0, got -1'),
        ({'padding': 'full'}, "padding must be 'same', 'valid'.*got 'full'"),
        ({'padding': 'same', 'stride': 2}, "padding='same' needs stride 1"),
        ({'padding_mode': 'mirror'}, "padding_mode must be one of .*got 'mirror'"),
        ({'offset_groups': 3}, 'offset_groups=3 does not divide in_channels=4'),
        ({'offset_groups': 0}, 'offset_groups must be an int of at least 1, got 0'),
        ({'offset_clip': 'image'}, "offset_clip must be None, 'scope' or .*got 'image'"),
        ({'offset_clip': -1}, 'offset_clip must be .*got -1'),
        ({'offset_clip': True}, 'offset_clip must be .*got True'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DeformKernel2d(4, 6, 3, **kwargs)
