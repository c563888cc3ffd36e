"""replace_conv2d: what is swapped, what it takes over, and what it says."""

import copy
import logging
import re

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.logging import MMLogger
from torch import nn

import mmdk
from mmdk.layers import DeformKernel2d


class Net(nn.Module):
    """A stem, two stages that share a convolution, and what must never be swapped."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.stage1 = nn.Sequential(
            ConvModule(8, 8, 3, padding=1, norm_cfg=dict(type='BN')), nn.Conv2d(8, 8, 1)
        )
        self.stage2 = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), ConvModule(8, 8, 1, act_cfg=None)
        )
        self.shared = self.stage1[0].conv
        self.up = nn.ConvTranspose2d(8, 4, 2)

    def forward(self, x):
        x = self.stage2(self.stage1(self.stem(x)))
        return self.up(x + self.shared(x))


SPATIAL = ['stem', 'stage1.0.conv', 'stage2.0']


def deformable(model):
    return [name for name, part in model.named_modules() if isinstance(part, DeformKernel2d)]


@pytest.mark.parametrize(
    'where, expected',
    [
        ('spatial', SPATIAL),
        ('depthwise', ['stage2.0']),
        ('all', ['stem', 'stage1.0.conv', 'stage1.1', 'stage2.0', 'stage2.1.conv']),
        (r'stage[12]\.0.*', ['stage1.0.conv', 'stage2.0']),
        ('stem', ['stem']),
        # Any of the names of a shared convolution.
        ('shared', ['stage1.0.conv']),
        (['depthwise', 'stem'], ['stem', 'stage2.0']),
        ((r'.*\.1', r'.*\.1\.conv'), ['stage1.1', 'stage2.1.conv']),
        (lambda name, conv: conv.stride == (2, 2), ['stem']),
        (lambda name, conv: name.startswith('stage2'), ['stage2.0', 'stage2.1.conv']),
    ],
)
def test_where(where, expected):
    model = Net().eval()
    x = torch.randn(2, 3, 12, 10)
    before = model(x)
    assert mmdk.replace_conv2d(model, where=where) == expected
    assert deformable(model) == expected
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)


def test_a_shared_convolution_stays_shared():
    model = Net()
    mmdk.replace_conv2d(model)
    assert model.shared is model.stage1[0].conv and isinstance(model.shared, DeformKernel2d)


def test_state_dict_keeps_its_names_and_loads_what_it_loaded():
    model = Net()
    plain = model.state_dict()
    mmdk.replace_conv2d(model)
    added = set(model.state_dict()) - set(plain)
    assert set(plain) <= set(model.state_dict()) and all('.conv_offset.' in key for key in added)
    model.load_state_dict(plain)


def test_options_reach_the_layer():
    model = Net()
    mmdk.replace_conv2d(model, type='DK', where='stem', scope_size=5, offset_clip='scope')
    assert (model.stem.scope_size, model.stem.offset_clip) == ((5, 5), 'scope')


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_dtype(dtype):
    model = Net().to(dtype).eval()
    kernel = model.stem.weight.clone()
    mmdk.replace_conv2d(model, scope_size=3)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.equal(model.stem.weight, kernel)
    assert model(torch.randn(1, 3, 8, 8, dtype=dtype)).dtype == dtype


def test_double_precision_is_kept():
    model = Net().double().eval()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    before = model(x)
    mmdk.replace_conv2d(model)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_device():
    model = Net().to('meta')
    mmdk.replace_conv2d(model)
    assert {parameter.device.type for parameter in model.parameters()} == {'meta'}


def test_frozen_stays_frozen():
    model = Net()
    model.stem.requires_grad_(False)
    model.stage2[0].bias.requires_grad_(False)
    mmdk.replace_conv2d(model)
    assert not any(parameter.requires_grad for parameter in model.stem.parameters())
    learning = {
        name: parameter.requires_grad for name, parameter in model.stage2[0].named_parameters()
    }
    assert learning == {
        'weight': True,
        'bias': False,
        'conv_offset.weight': True,
        'conv_offset.bias': True,
    }


def test_training_mode_is_kept():
    model = Net()
    model.stem.eval()
    mmdk.replace_conv2d(model)
    assert not model.stem.training and model.stage2[0].training


@pytest.mark.parametrize('padding_mode', ['zeros', 'reflect', 'circular'])
@pytest.mark.parametrize('padding', [(2, 1), 'same', 'valid'])
def test_geometry(padding, padding_mode):
    conv = nn.Conv2d(4, 6, (3, 5), padding=padding, groups=2, padding_mode=padding_mode)
    model = nn.Sequential(conv).eval()
    x = torch.randn(2, 4, 9, 11)
    before = model(x)
    mmdk.replace_conv2d(model)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)


def test_conv_module_keeps_working():
    """It caches attributes of its convolution, and pads in place of it for some modes."""
    module = ConvModule(4, 6, 3, stride=2, padding=1, padding_mode='reflect').eval()
    x = torch.randn(2, 4, 9, 7)
    before = module(x)
    assert mmdk.replace_conv2d(module) == ['conv']
    torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-4)
    for name in ('in_channels', 'out_channels', 'kernel_size', 'stride', 'dilation', 'groups'):
        assert getattr(module, name) == getattr(module.conv, name)


def test_gradients_and_copies():
    model = Net()
    mmdk.replace_conv2d(model)
    twin = copy.deepcopy(model)
    for each in (model, twin):
        each(torch.ones(2, 3, 8, 8)).square().mean().backward()
    assert model.stem.conv_offset.weight.grad.any()
    assert torch.equal(model.stem.weight.grad, twin.stem.weight.grad)


def test_it_says_what_it_did(tmp_path):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    # Of its own: the last one of another test may be silent.
    MMLogger.get_instance(str(tmp_path), log_level='INFO').addHandler(handler)
    mmdk.replace_conv2d(Net())
    assert "3 convolutions replaced by 'DK': stem, stage1.0.conv, stage2.0" in lines
    assert any(line.startswith('stage1.0.conv.weight: a plain kernel (3, 3)') for line in lines)


def test_a_layers_own_convolutions_are_left_alone():
    """What predicts the offsets of MMCV's deformable convolution is an nn.Conv2d inside it."""
    ops = pytest.importorskip('mmcv.ops')
    model = nn.Sequential(nn.Conv2d(3, 4, 3), ops.ModulatedDeformConv2dPack(4, 4, 3))
    assert mmdk.replace_conv2d(model, where='spatial') == ['0']
    with pytest.raises(ValueError, match=r"matches no plain nn.Conv2d. It matches '1.conv_offset'"):
        mmdk.replace_conv2d(model, where=r'1\.conv_offset')


def test_containers_with_a_weight_are_no_layers():
    """Such as those that weigh what their convolutions give."""
    model = Net()
    model.weight = nn.Parameter(torch.ones(2))
    assert mmdk.replace_conv2d(model) == SPATIAL


def test_a_scripted_model_has_none():
    with pytest.raises(ValueError, match='selects none of the 0 plain nn.Conv2d in Recursive'):
        mmdk.replace_conv2d(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))))


def test_a_compiled_model_computes_with_the_new_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    compiled = torch.compile(model, backend='eager')
    x = torch.randn(1, 3, 6, 6)
    before = compiled(x)
    mmdk.replace_conv2d(model)
    nn.init.ones_(model[0].conv_offset.bias)
    assert torch.equal(compiled(x), model(x)) and not torch.allclose(compiled(x), before)


def test_traced_graphs():
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    x = torch.randn(1, 3, 6, 6)
    before = graph(x)
    assert mmdk.replace_conv2d(graph) == ['0']
    torch.testing.assert_close(graph(x), before, rtol=1e-5, atol=1e-5)


def weight_normed(model):
    nn.utils.weight_norm(model.stem)


def parametrized(model):
    nn.utils.parametrizations.weight_norm(model.stem)


def hooked(model):
    model.stem.register_forward_hook(lambda *_: None)


def hooked_while_saving(model):
    model.stem._register_state_dict_hook(lambda *_: None)


def adapted(model):
    model.stem.adapter = nn.Linear(3, 8)
    model.stem.register_buffer('gain', torch.ones(1))


def patched(model):
    model.stem.forward = lambda x: x


def tied(model):
    model.stage1[1].weight = nn.Parameter(model.stage2[1].conv.weight.detach())
    model.stage2[1].conv.weight = model.stage1[1].weight


def tied_bias(model):
    model.stage2[0].bias = model.stage1[1].bias


@pytest.mark.parametrize(
    'prepare, where, message',
    [
        (None, 'stage3.*', r"where='stage3\.\*' matches no plain.*Closest: '\w.*whole name"),
        (None, 'spatail', r"where='spatail' matches no plain.*Closest: 'spatial'"),
        (None, 'stage1.0', r"It matches 'stage1\.0' \(ConvModule\)\. Everything inside is 'stage1"),
        (None, 'stage1|stage2', r"Everything inside is '\(stage1\|stage2\)\\\\\.\.\*'"),
        (None, ['stem', 'stem2'], "where='stem2' matches no plain nn.Conv2d.*Closest: 'stem'"),
        (None, 'up', r"It matches 'up' \(ConvTranspose2d\)"),
        (None, 'stage[', r"where='stage\[' is no regular expression"),
        (None, lambda name, conv: False, 'selects none of the 5 plain nn.Conv2d in Net'),
        (weight_normed, 'stem', r"'stem' cannot be replaced by 'DK': its parameters are .*norm"),
        (parametrized, 'spatial', "'stem' cannot be replaced by 'DK': its parameters are"),
        (hooked, 'stem', "'stem' cannot be replaced by 'DK': it has hooks"),
        (hooked_while_saving, 'stem', "'stem' cannot be replaced by 'DK': it has hooks"),
        (adapted, 'stem', "'stem' cannot be replaced by 'DK': it holds 'gain', 'adapter'"),
        (patched, 'stem', "'stem' cannot be replaced by 'DK': its method forward was replaced"),
        (tied_bias, 'depthwise', "'DK': it shares its bias with 'stage1.1', which would end"),
        (tied, 'all', "cannot be replaced by 'DK': it shares its weight with 'stage2.1.conv'"),
    ],
)
@pytest.mark.filterwarnings('ignore:.*weight_norm.*:FutureWarning')
def test_errors_of_where(prepare, where, message):
    model = Net()
    if prepare:
        prepare(model)
    with pytest.raises(ValueError, match=message):
        mmdk.replace_conv2d(model, where=where)
    assert deformable(model) == []


def test_nothing_of_that_kind():
    with pytest.raises(ValueError, match="where='depthwise' selects none of the 1 plain"):
        mmdk.replace_conv2d(nn.Sequential(nn.Conv2d(3, 4, 3)), where='depthwise')


def test_twice():
    model = Net()
    mmdk.replace_conv2d(model)
    with pytest.raises(ValueError, match=r"It matches 'stem' \(DeformKernel2d\)"):
        mmdk.replace_conv2d(model, where='stem')
    with pytest.raises(ValueError, match="'spatial' selects none of the 2 plain"):
        mmdk.replace_conv2d(model)


def test_a_convolution_alone():
    with pytest.raises(ValueError, match='The module is a convolution itself'):
        mmdk.replace_conv2d(nn.Conv2d(3, 4, 3))


def test_a_wrapped_model():
    """DDP would not add up the gradients of parameters that it did not see when it was made."""
    wrapped = nn.Sequential(nn.DataParallel(Net()))
    with pytest.raises(ValueError, match="'0' is a DataParallel.*swap before wrapping"):
        mmdk.replace_conv2d(wrapped)


def test_no_module():
    with pytest.raises(TypeError, match='module must be an nn.Module, got 3'):
        mmdk.replace_conv2d(3)


@pytest.mark.parametrize('where', [3, [], None, [3], [['stem']]])
def test_where_of_another_kind(where):
    with pytest.raises(
        TypeError, match=re.escape(f'or a function of name and module, got {where!r}')
    ):
        mmdk.replace_conv2d(Net(), where=where)


@pytest.mark.parametrize(
    'cfg, error, message',
    [
        (dict(type='DKK'), KeyError, "type='DKK' is not registered .* Did you mean 'DK'"),
        (dict(type=DeformKernel2d), KeyError, 'is not registered'),
        (dict(scop_size=4), TypeError, "stage1.0.conv: .*type='DK' has no option 'scop_size'"),
        (dict(groups=2), TypeError, "'groups' is taken over from the convolution"),
        (dict(dtype=torch.float64), TypeError, "'dtype' is taken over from the convolution"),
        (dict(padding_mode='reflect'), TypeError, "'padding_mode' is taken over from the conv"),
        (dict(type='ConvModule'), ValueError, '(?s)stage1.0.conv: ConvModule.* has no weight'),
        (dict(type='DCN'), ValueError, 'stage2.0: bias=True is not supported'),
        (dict(scope_size=2), ValueError, 'stage1.0.conv: .*scope_size .* is smaller than'),
        (dict(offset_groups=3), ValueError, 'stage1.0.conv: .*offset_groups=3 does not divide'),
        (dict(depthwise=True), ValueError, '(?s)stage1.0.conv: the weights of .* do not fit'),
    ],
)
def test_errors_name_the_layer_and_leave_the_model_as_it_was(cfg, error, message):
    model = Net()
    with pytest.raises(error, match=message):
        mmdk.replace_conv2d(model, where=['depthwise', r'stage1\.0\.conv'], **cfg)
    assert deformable(model) == []
