"""The released code's modules: its README's first lines, its state dicts, its outputs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdk import modules
from mmdk.ops import reference

# The released README's lines with the import line changed and `[inplanes]` an int.
QUICKSTART = """
from mmdk.modules import (
    GlobalDeformKernel2d,
    DeformKernel2d,
    DeformKernelConv2d,
)

# global DK with scope size 2, kernel size 1, stride 1, padding 0, depthwise convolution.
gdk = GlobalDeformKernel2d((2, 2), inplanes, inplanes, groups=inplanes)
# (local) DK with scope size 4, kernel size 3, stride 1, padding 1, depthwise convolution.
dk = DeformKernel2d((4, 4), inplanes, inplanes, 3, 1, 1, groups=inplanes)
# (local) DK integrating with dcn, with kernel & image offsets separately learnt.
dkc = DeformKernelConv2d((4, 4), inplanes, inplanes, 3, 1, 1, groups=inplanes)
"""


def random(*shape, scale=1.0):
    return torch.randn(*shape, dtype=torch.float64) * scale


def local_state(channels, kernel=3, scope=4, groups=1, name='rotation_conv'):
    """What the released modules save."""
    taps = kernel * kernel
    return {
        f'{name}.weight': random(groups * taps * 2, channels, kernel, kernel, scale=0.1),
        f'{name}.bias': random(groups * taps * 2, scale=0.5),
        'inner_conv.weight': random(channels, 1, scope, scope),
    }


def test_quickstart_of_the_released_readme():
    names = dict(inplanes=8)
    exec(QUICKSTART, names)
    x = torch.randn(2, 8, 7, 9)
    for name in ('gdk', 'dk', 'dkc'):
        y = names[name](x)
        assert y.shape == x.shape
        y.square().mean().backward()
        for parameter_name, parameter in names[name].named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), (name, parameter_name)


def test_all_six_names():
    assert sorted(modules.__all__) == [
        'CondConv2d',
        'DeformConv2d',
        'DeformKernel2d',
        'DeformKernelConv2d',
        'GlobalDeformKernel2d',
        'LocalDeformKernel2d',
    ]
    assert modules.DeformKernel2d is modules.LocalDeformKernel2d


@pytest.mark.parametrize('kernel, scope, groups, out', [(1, 2, 6, 6), (3, 4, 6, 6), (3, 4, 1, 8)])
def test_global_state_and_output(kernel, scope, groups, out):
    layer = modules.GlobalDeformKernel2d((scope, scope), 6, out, kernel, 2, 1, groups=groups)
    state = {
        'weight': random(out, 6 // groups, scope, scope),
        'fc.weight': random(kernel**2 * 2, 6),
        'fc.bias': random(kernel**2 * 2),
    }
    layer.double().load_state_dict(state)
    x = random(3, 6, 7, 8) + random(3, 6, 1, 1)
    taps = torch.arange(kernel) + (scope - kernel) / 2
    rest = torch.cartesian_prod(taps, taps).flatten() if kernel > 1 else taps.repeat(2)
    coordinate = F.linear(x.mean((2, 3)), state['fc.weight'], state['fc.bias']) + rest
    assert (coordinate < 0).any() and (coordinate > scope - 1).any()
    offset = coordinate.clamp(0, scope - 1) - rest
    kernels = reference.sample_kernel(state['weight'], offset, kernel)
    expected = torch.cat(
        [
            F.conv2d(image[None], own, None, 2, 1, 1, groups)
            for image, own in zip(x, kernels, strict=True)
        ]
    )
    torch.testing.assert_close(layer(x), expected)


def test_global_state_with_a_scope_of_the_kernels_size():
    """Its weight has the shape of a plain convolution's, yet it is none."""
    state = {
        'weight': random(6, 1, 3, 3),
        'fc.weight': random(18, 6),
        'fc.bias': random(18),
    }
    layer = modules.GlobalDeformKernel2d((3, 3), 6, 6, 3, groups=6).double()
    layer.load_state_dict(state)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize('groups', [1, 2, 3])
@pytest.mark.parametrize('clip', [None, 'scope', (-0.25, 0.5), dict(min=-0.25, max=0.5)])
def test_local_state_and_output(groups, clip):
    """Channel c has the offsets of group c % groups."""
    state = local_state(6, groups=groups)
    layer = modules.DeformKernel2d(
        (4, 4), 6, 6, 3, 2, 1, groups=6, rotation_groups=groups, rotation_clip=clip
    )
    layer.double().load_state_dict(state)
    x = random(2, 6, 9, 8)
    rotation = F.conv2d(x, state['rotation_conv.weight'], state['rotation_conv.bias'], 2, 1)
    rotation = rotation.unflatten(1, (groups, 9, 2))
    if clip == 'scope':
        rest = torch.cartesian_prod(*[torch.arange(3) + 0.5] * 2)[None, None, :, :, None, None]
        rotation = (rotation + rest).clamp(0, 3) - rest
    elif clip is not None:
        rotation = rotation.clamp(-0.25, 0.5)
    expected = torch.empty(2, 6, *rotation.shape[-2:], dtype=torch.float64)
    for channel in range(6):
        expected[:, channel] = reference.deform_kernel2d(
            x[:, channel, None],
            state['inner_conv.weight'][channel, None],
            rotation[:, channel % groups].flatten(1, 2),
            kernel_size=3,
            stride=2,
            padding=1,
        )[:, 0]
    torch.testing.assert_close(layer(x), expected)


def test_local_bias_is_that_of_its_channel():
    layer = modules.DeformKernel2d((4, 4), 6, 6, 3, groups=6, rotation_groups=3, bias=True)
    nn.init.zeros_(layer.inner_conv.weight)
    y = layer(torch.randn(1, 6, 5, 5))
    torch.testing.assert_close(y[0, :, 0, 0], layer.inner_conv.bias)


@pytest.mark.parametrize('dilation', [1, 2, (2, 3)])
@pytest.mark.parametrize('clip', [None, (-0.4, 0.3)])
def test_both_offsets_of_a_released_state(dilation, clip):
    """Its image offsets count in steps of the dilation; kernel offsets it has none."""
    state = local_state(6, name='offset_conv')
    layer = modules.DeformKernelConv2d(
        (4, 4), 6, 6, 3, 1, 2, dilation=dilation, groups=6, offset_clip=clip
    ).double()
    nn.init.ones_(layer.rotation_conv.bias)
    layer.load_state_dict(state)
    x = random(2, 6, 9, 8)
    geometry = dict(stride=1, padding=2, dilation=dilation)
    weight, bias = state['offset_conv.weight'], state['offset_conv.bias']
    offset = F.conv2d(x, weight, bias, **geometry)
    if clip is not None:
        offset = offset.clamp(*clip)
    steps = torch.tensor(dilation if isinstance(dilation, tuple) else (dilation, dilation))
    offset = offset * steps.repeat(9)[:, None, None]
    expected = reference.deform_kernel2d(
        x, state['inner_conv.weight'], image_offset=offset, kernel_size=3, **geometry
    )
    torch.testing.assert_close(layer(x), expected)


def test_both_offsets_are_learnt_and_saved():
    """As the released README promises."""
    layer = modules.DeformKernelConv2d((4, 4), 6, 6, 3, 1, 1, groups=6).double()
    layer.load_state_dict({**local_state(6, name='offset_conv'), **local_state(6)})
    x = random(2, 6, 9, 8)
    rotation, offset = (
        F.conv2d(x, conv.weight, conv.bias, padding=1)
        for conv in (layer.rotation_conv, layer.offset_conv)
    )
    expected = reference.deform_kernel2d(
        x, layer.inner_conv.weight, rotation, offset, kernel_size=3, padding=1
    )
    torch.testing.assert_close(layer(x), expected)
    other = modules.DeformKernelConv2d((4, 4), 6, 6, 3, 1, 1, groups=6).double()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_deform_conv_state_and_output():
    state = local_state(6, scope=3, name='offset_conv')
    layer = modules.DeformConv2d(6, 6, 3, 1, 1, groups=6).double()
    layer.load_state_dict(state)
    assert layer.state_dict().keys() == state.keys()
    x = random(2, 6, 9, 8)
    offset = F.conv2d(x, state['offset_conv.weight'], state['offset_conv.bias'], padding=1)
    expected = reference.deform_kernel2d(
        x, state['inner_conv.weight'], image_offset=offset, kernel_size=3, padding=1
    )
    torch.testing.assert_close(layer(x), expected)


def test_cond_conv_takes_the_number_of_experts_first():
    layer = modules.CondConv2d(4, 6, 8, 3, 1, 1)
    plain = nn.Conv2d(6, 8, 3, 1, 1)
    layer.load_state_dict(plain.state_dict())
    assert layer.num_experts == 4
    x = torch.randn(2, 6, 7, 8)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


MODULES = {
    'global': lambda: modules.GlobalDeformKernel2d((2, 2), 4, 4, groups=4),
    'local': lambda: modules.DeformKernel2d((4, 4), 4, 4, 3, 1, 1, groups=4, rotation_groups=2),
    'local_dense': lambda: modules.DeformKernel2d((4, 4), 4, 6, (3, 1), rotation_clip='scope'),
    'both': lambda: modules.DeformKernelConv2d((4, 4), 4, 4, 3, 1, 1, groups=4),
    'deform_conv': lambda: modules.DeformConv2d(4, 6, 3, 1, 1),
    'cond_conv': lambda: modules.CondConv2d(3, 4, 6, 3, 1, 1),
}


@pytest.mark.parametrize('make', MODULES.values(), ids=MODULES)
def test_gradients_copies_and_empty_batches(make):
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = random(2, 4, 5, 6).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = [value.detach().requires_grad_() for value in values]
    torch.autograd.gradcheck(call, (x, *values), fast_mode=True)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert layer(x[:0]).shape[0] == 0


@pytest.mark.parametrize('make', MODULES.values(), ids=MODULES)
def test_compiles_whole(make):
    torch.compiler.reset()
    layer, x = make(), torch.randn(2, 4, 5, 6)
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(
    'make, message',
    [
        (
            lambda: modules.DeformKernel2d((4, 4), 4, 6, 3, rotation_groups=2),
            'rotation_groups=2 needs groups = in_planes = out_planes, got 1, 4 and 6',
        ),
        (
            lambda: modules.DeformKernel2d((4, 4), 4, 4, 3, groups=4, rotation_groups=3),
            'rotation_groups=3 does not divide in_channels=4',
        ),
        (
            lambda: modules.DeformKernel2d((4, 4), 4, 4, 3, rotation_clip='image'),
            r"rotation_clip must be None, 'scope', \(low, high\) or .*got 'image'",
        ),
        (
            lambda: modules.DeformKernelConv2d((4, 4), 4, 4, 3, offset_clip=(1, -1)),
            r'offset_clip must have low <= high, got \(1, -1\)',
        ),
        (
            lambda: modules.DeformKernelConv2d((4, 4), 4, 4, 3, offset_clip='scope'),
            r"offset_clip must be None, \(low, high\) or .*got 'scope'",
        ),
        (
            lambda: modules.GlobalDeformKernel2d((2, 2, 2), 4, 4),
            r'scope_size must be an int or a \(height, width\) pair, .*got \(2, 2, 2\)',
        ),
        (
            lambda: modules.DeformKernel2d((2, 2), 4, 4, 3),
            r'scope_size \(2, 2\) is smaller than kernel_size \(3, 3\)',
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
