"""State dicts of the released code's modules, converted to those of the layers."""

import pytest
import torch
from torch import nn

from mmdk import layers, modules
from mmdk.checkpoints import convert_state_dict

C = 6


def geometry(kernel=3, groups=C, out=C, **options):
    """Of a layer here; height unlike width."""
    return dict(
        in_channels=C,
        out_channels=out,
        kernel_size=kernel,
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 2),
        groups=groups,
        **options,
    )


def released(module, g, scope=None, **options):
    """A module of the same geometry, whose offsets matter."""
    names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation')
    sizes = [] if scope is None else [scope]
    return shaken(module(*sizes, *(g[name] for name in names), g['groups'], **options))


def shaken(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def inside(module):
    return nn.Sequential(nn.BatchNorm2d(C), module).double().eval()


def assert_converts(module, make, drop=(), **options):
    """A layer that is loaded strictly with what was converted computes what the module does."""
    old = inside(module)
    state = {name: value for name, value in old.state_dict().items() if name not in drop}
    old.load_state_dict(state, strict=False)  # the released code's state has less than ours
    conversion = convert_state_dict(state, inside(make(**options)))
    assert conversion.released == ['1']
    assert conversion.lifted == conversion.left_out == conversion.missing == []
    assert sorted(conversion.taken_over) == sorted(old[0].state_dict(prefix='0.'))

    new = inside(shaken(make(**options)))
    new.load_state_dict(conversion.state_dict, strict=True)
    x = torch.randn(2, C, 9, 8, dtype=torch.float64) + torch.randn(2, C, 1, 1)
    expected = old(x)
    torch.testing.assert_close(new(x), expected)
    # That is not what it would compute without offsets.
    nn.init.zeros_(new[1].conv_offset.weight)
    assert (new(x) - expected).abs().max() > 0.01


@pytest.mark.parametrize('clip', [None, 'scope', 0.2])
@pytest.mark.parametrize('bias', [False, True])
def test_local(clip, bias):
    bounds = (-clip, clip) if isinstance(clip, float) else clip
    g = geometry()
    module = released(modules.DeformKernel2d, g, (4, 5), bias=bias, rotation_clip=bounds)
    options = dict(scope_size=(4, 5), offset_clip=clip, bias=bias)
    assert_converts(module, layers.DeformKernel2d, **g, **options)


@pytest.mark.parametrize('groups, out', [(1, 8), (2, 4)])
def test_convolutions_that_are_not_depthwise(groups, out):
    g = geometry(groups=groups, out=out)
    module = released(modules.DeformKernel2d, g, (4, 4))
    assert_converts(module, layers.DeformKernel2d, **g, bias=False)


@pytest.mark.parametrize('rotation_groups, offset_groups', [(6, 6), (2, 6), (3, 6), (1, 2)])
def test_groups_that_can_be_converted(rotation_groups, offset_groups):
    """Interleaved channels to neighbouring ones: offsets of a group for each of its channels."""
    g = geometry()
    module = released(modules.DeformKernel2d, g, (4, 4), rotation_groups=rotation_groups)
    assert_converts(module, layers.DeformKernel2d, **g, bias=False, offset_groups=offset_groups)


@pytest.mark.parametrize('rotation_groups, offset_groups', [(2, 2), (3, 3), (2, 1), (6, 3), (2, 3)])
def test_groups_that_cannot_are_refused(rotation_groups, offset_groups):
    g = geometry()
    module = released(modules.DeformKernel2d, g, (4, 4), rotation_groups=rotation_groups)
    layer = layers.DeformKernel2d(**g, bias=False, offset_groups=offset_groups)
    with pytest.raises(
        ValueError,
        match=rf'1.rotation_conv.weight is of {rotation_groups} rotation_groups.* interleaves '
        rf'channels; with offset_groups={offset_groups} here.*with offset_groups=6, its '
        rf'in_channels, which computes the same with {6 // rotation_groups} times',
    ):
        convert_state_dict(inside(module).state_dict(), inside(layer))


@pytest.mark.parametrize('kernel, scope', [(1, 2), (3, 4), (3, 5)])
@pytest.mark.parametrize('offset_groups', [1, 2])
@pytest.mark.parametrize('bias', [False, True])
def test_global(kernel, scope, offset_groups, bias):
    g = geometry(kernel, groups=2)
    module = released(modules.GlobalDeformKernel2d, g, (scope, scope), bias=bias)
    options = dict(scope_size=scope, offset_groups=offset_groups, bias=bias)
    assert_converts(module, layers.GlobalDeformKernel2d, **g, **options, offset_clip='scope')


@pytest.mark.parametrize(
    'drop', [(), ('1.rotation_conv.weight', '1.rotation_conv.bias')], ids=['mmdk', 'released']
)
@pytest.mark.parametrize('offset_groups', [1, 2])
def test_both_offsets(drop, offset_groups):
    """The released code's state has no kernel offsets, that of mmdk.modules has."""
    g = geometry()
    module = released(modules.DeformKernelConv2d, g, (4, 4))
    options = dict(bias=False, offset_groups=offset_groups)
    assert_converts(module, layers.DeformKernelConv2d, drop, **g, **options)


def test_deformable_convolution():
    g = geometry(groups=2)
    assert_converts(released(modules.DeformConv2d, g), layers.DeformConv2d, **g, bias=False)


def test_a_module_that_is_the_model():
    g = geometry()
    module = released(modules.DeformKernel2d, g, (4, 4))
    layer = layers.DeformKernel2d(**g, bias=False)
    conversion = convert_state_dict(module.state_dict(), layer)
    assert conversion.released == ['']
    assert 'see that the layers here clip alike' in conversion.report()
    x = torch.randn(1, C, 7, 8)
    torch.testing.assert_close(layer(x), module(x))


def local(kernel=3, scope=4):
    return modules.DeformKernel2d((scope, scope), C, C, kernel)


def both():
    return modules.DeformKernelConv2d((4, 4), C, C, 3)


REFUSED = {
    'another type': (
        local(),
        layers.DeformKernelConv2d(C, C, 3, bias=False),
        "1 was saved by LocalDeformKernel2d of the released code, and is of type 'DKDCN' here. "
        "Build it as 'DK'.",
    ),
    'both offsets for one': (
        both(),
        layers.DeformConv2d(C, C, 3, bias=False),
        "1 was saved by DeformKernelConv2d .* is of type 'FastDCN' here. Build it as 'DKDCN'",
    ),
    'no clipping': (
        modules.GlobalDeformKernel2d((2, 2), C, C),
        layers.GlobalDeformKernel2d(C, C, 1, bias=False),
        '1 was saved .* keeps its taps inside the scope, and has offset_clip=None here. Build it '
        "with offset_clip='scope'",
    ),
    'another scope': (
        local(scope=5),
        layers.DeformKernel2d(C, C, 3, bias=False),
        r'1.weight: a scope of \(5, 5\) is in the checkpoint, and scope_size here is \(4, 4\)',
    ),
    'another kernel': (
        local(kernel=5, scope=6),
        layers.DeformKernel2d(C, C, 3, bias=False),
        r'1.rotation_conv.weight: \(50, 6, 5, 5\) is .*kernel_size=\(3, 3\)',
    ),
    'other groups of image offsets': (
        both(),
        layers.DeformKernelConv2d(C, C, 3, bias=False, image_offset_groups=2),
        r'1.conv_offset.weight: \(36, 6, 3, 3\) is .* \(54, 6, 3, 3\) .* image_offset_groups=2',
    ),
    'a mask': (
        both(),
        layers.DeformKernelConv2d(C, C, 3, bias=False, modulated=True),
        r'1.conv_offset.weight: \(36, 6, 3, 3\) is .*modulated=True',
    ),
    'no bias': (
        local(),
        layers.DeformKernel2d(C, C, 3),
        r'1 of the model are not there: 1\.bias',
    ),
    'a plain convolution': (
        local(),
        nn.Sequential(nn.Conv2d(C, C, 3, bias=False), layers.DeformKernel2d(C, C, 3)),
        r'3 have no place in the model:\n  1\.inner_conv\.weight',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refusals(case):
    module, layer, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        convert_state_dict(inside(module).state_dict(), inside(layer))


def test_rows_that_are_no_multiple_of_the_taps():
    state = inside(local()).state_dict()
    for key in ('weight', 'bias'):
        state[f'1.rotation_conv.{key}'] = state[f'1.rotation_conv.{key}'][:17]
    with pytest.raises(ValueError, match='has 17 output channels; kernel_size .* multiple of 18'):
        convert_state_dict(state, inside(layers.DeformKernel2d(C, C, 3, bias=False)))


def test_offsets_without_bias():
    state = inside(local()).state_dict()
    del state['1.rotation_conv.bias']
    with pytest.raises(ValueError, match=r'are not there: 1\.conv_offset\.bias'):
        convert_state_dict(state, inside(layers.DeformKernel2d(C, C, 3, bias=False)))
