"""The contract of every layer: nn.Conv2d's arguments, its weights, and its output at rest."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tests.layers.family import CLASSES, VARIANTS, generator, is_at_rest, learnt

CONVOLUTIONS = {
    'plain': ((6, 4, 3), {'padding': 1}),
    'depthwise': ((6, 6, 3), {'padding': 1, 'groups': 6, 'bias': False}),
    'grouped_strided': ((6, 8, (3, 2)), {'stride': (2, 1), 'groups': 2}),
    'dilated': ((6, 4, 3), {'padding': (2, 3), 'dilation': (2, 3)}),
    'pointwise': ((6, 4, 1), {}),
    'same': ((6, 4, 5), {'padding': 'same', 'dilation': 2}),
    'valid': ((6, 4, 3), {'padding': 'valid'}),
    'reflect': ((6, 4, 3), {'padding': 1, 'padding_mode': 'reflect'}),
    'replicate': ((6, 4, 3), {'padding': 2, 'padding_mode': 'replicate'}),
    'circular': ((6, 4, 3), {'padding': (2, 1), 'padding_mode': 'circular'}),
}

every_layer = pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)
every_class = pytest.mark.parametrize('kind', CLASSES)
every_convolution = pytest.mark.parametrize('args, kwargs', CONVOLUTIONS.values(), ids=CONVOLUTIONS)


@every_layer
@every_convolution
def test_starts_as_the_convolution_it_replaces(make, args, kwargs):
    """Same arguments, same state dict, same output."""
    plain = nn.Conv2d(*args, **kwargs)
    layer = learnt(make(*args, **kwargs))
    layer.load_state_dict(plain.state_dict())
    assert is_at_rest(layer)
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', [kind for kind in CLASSES if kind != 'FastDCN'])
@every_convolution
def test_same_seed_same_initial_output_as_conv2d(kind, args, kwargs):
    """The initial kernel is not only distributed like nn.Conv2d's, it is the same draw.

    FastDCN's has the distribution of MMCV's layers.
    """
    torch.manual_seed(3)
    plain = nn.Conv2d(*args, **kwargs)
    torch.manual_seed(3)
    layer = CLASSES[kind](*args, **kwargs)
    x = torch.randn(1, 6, 9, 11)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


@every_layer
def test_lists_and_numpy_ints_are_taken_as_configs_and_code_give_them(make):
    layer = make(np.int64(4), 4, [3, np.int64(2)], stride=[2, 1])
    assert (layer.kernel_size, layer.stride) == ((3, 2), (2, 1))
    assert layer(torch.randn(1, 4, 5, 5)).shape == (1, 4, 2, 4)


@every_layer
@pytest.mark.parametrize('kernel_size', [1, 2, 3, (1, 3), (3, 1)])
@pytest.mark.parametrize('lifted', [False, True])
def test_all_parameters_learn(make, kernel_size, lifted):
    """Each offset too, also in the scope of a kernel of one tap, whose smoothest is constant."""
    layer = make(4, 4, kernel_size)
    if lifted:
        layer.load_state_dict(nn.Conv2d(4, 4, kernel_size).state_dict())
    layer(torch.randn(2, 4, 6, 6)).square().mean().backward()
    for name, parameter in layer.named_parameters():
        rows = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad[:, None]
        # Beyond what rounding leaves of a gradient that is zero.
        assert (rows.abs().amax(1) > 1e-6).all(), name


@every_layer
@pytest.mark.parametrize('groups', [1, 2, 4])
def test_gradients(make, groups):
    layer = learnt(make(4, 4, (2, 3), stride=(2, 1), padding=1, groups=groups).double())
    x = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def call(x, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, state, (x,))

    values = [parameter.detach().requires_grad_() for parameter in parameters]
    torch.autograd.gradcheck(call, (x, *values), fast_mode=True)


@every_layer
def test_no_rois(make):
    layer = make(4, 6, 3, padding=1)
    output = layer(torch.zeros(0, 4, 7, 7))
    assert output.shape == (0, 6, 7, 7)
    output.sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


@every_layer
def test_channels_last(make):
    layer = learnt(make(4, 6, 3, padding=1))
    x = torch.randn(2, 4, 7, 8)
    expected = layer(x)
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), expected)
    layer.to(memory_format=torch.channels_last)
    assert layer.weight.flatten(0, -4).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), expected)


@every_layer
@pytest.mark.parametrize('copier', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(make, copier):
    layer = learnt(make(4, 4, 3))
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(copier(layer)(x), layer(x))


@every_layer
def test_saves_and_loads(make, tmp_path):
    layer, other = learnt(make(4, 4, 3)), make(4, 4, 3)
    torch.save(layer.state_dict(), tmp_path / 'layer.pth')
    other.load_state_dict(torch.load(tmp_path / 'layer.pth', weights_only=True))
    for name, value in layer.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


@every_layer
def test_init_weights_brings_it_to_rest(make):
    layer = make(4, 4, 3)
    before = layer.weight.clone()
    for parameter in generator(layer).parameters():
        nn.init.ones_(parameter)
    layer.init_weights()
    assert is_at_rest(layer)
    assert not torch.equal(layer.weight, before)


@every_layer
def test_init_weights_leaves_foreign_parts_alone(make):
    """Such as those of a parametrization."""
    layer = nn.utils.parametrizations.spectral_norm(make(4, 4, 3))
    nn.init.ones_(generator(layer).weight)
    layer.init_weights()
    assert is_at_rest(layer)


@every_class
def test_names_in_the_state_dict(kind):
    name = 'routing' if kind == 'CondConv' else 'conv_offset'
    names = {'weight', 'bias', f'{name}.weight', f'{name}.bias'}
    assert CLASSES[kind](2, 2, 3).state_dict().keys() == names


OWN_OPTIONS = {
    'DK': dict(scope_size=(5, 2), offset_groups=4, offset_clip='scope'),
    'GlobalDK': dict(scope_size=(5, 2), offset_groups=4, offset_clip='scope'),
    'DKDCN': dict(
        scope_size=(5, 2),
        offset_groups=4,
        offset_clip='scope',
        image_offset_groups=2,
        modulated=True,
    ),
    'FastDCN': dict(deform_groups=2, modulated=True),
    'CondConv': dict(num_experts=3),
}


@every_class
def test_extra_repr_tells_the_whole_configuration(kind):
    options = OWN_OPTIONS[kind]
    text = repr(CLASSES[kind](4, 8, (3, 1), 2, 1, 3, 2, False, 'reflect', **options))
    for part in (
        '4, 8',
        'kernel_size=(3, 1)',
        'stride=(2, 2)',
        'padding=(1, 1)',
        'dilation=(3, 3)',
        'groups=2',
        'bias=False',
        "padding_mode='reflect'",
        *(f'{name}={value!r}' for name, value in options.items()),
    ):
        assert part in text


@every_layer
@pytest.mark.parametrize(
    'kwargs, message',
    [
        ({'groups': 3}, 'groups=3 does not divide in_channels=4'),
        ({'groups': 4}, 'groups=4 does not divide out_channels=6'),
        ({'groups': 0}, 'groups must be an int of at least 1, got 0'),
        ({'groups': True}, 'groups must be .* got True'),
        ({'stride': 0}, 'stride must be .* at least 1, got 0'),
        ({'padding': -1}, 'padding must be .* at least 0, got -1'),
        ({'padding': 'full'}, "padding must be 'same', 'valid'.*got 'full'"),
        ({'padding': 'same', 'stride': 2}, "padding='same' needs stride 1"),
        ({'padding_mode': 'mirror'}, "padding_mode must be one of .*got 'mirror'"),
    ],
)
def test_bad_arguments(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(4, 6, 3, **kwargs)


@pytest.mark.parametrize(
    'kind, kwargs, message',
    [
        ('GlobalDK', {'scope_size': 2}, r'scope_size \(2, 2\) is smaller than kernel_size'),
        ('GlobalDK', {'offset_groups': 3}, 'offset_groups=3 does not divide in_channels=4'),
        ('GlobalDK', {'offset_clip': 'image'}, "offset_clip must be None, 'scope' or .*got 'im"),
        ('DKDCN', {'scope_size': 2}, r'scope_size \(2, 2\) is smaller than kernel_size'),
        ('DKDCN', {'image_offset_groups': 3}, 'image_offset_groups=3 does not divide in_ch'),
        ('DKDCN', {'image_offset_groups': 0}, 'image_offset_groups must be an int of at least 1'),
        ('DKDCN', {'modulated': 'no'}, "modulated must be True or False, got 'no'"),
        ('FastDCN', {'deform_groups': 3}, 'deform_groups=3 does not divide in_channels=4'),
        ('FastDCN', {'deform_groups': 0.5}, 'deform_groups must be an int of at least 1, got 0.5'),
        ('FastDCN', {'modulated': 2}, 'modulated must be True or False, got 2'),
        ('CondConv', {'num_experts': 0}, 'num_experts must be an int of at least 1, got 0'),
        ('CondConv', {'num_experts': 1.5}, 'num_experts must be .*got 1.5'),
    ],
)
def test_bad_options(kind, kwargs, message):
    with pytest.raises(ValueError, match=message):
        CLASSES[kind](4, 6, 3, **kwargs)
