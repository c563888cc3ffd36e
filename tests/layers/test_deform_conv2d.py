"""The layer 'FastDCN' against MMCV's deformable convolutions."""

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn

from mmdk.layers import DeformConv2d
from tests.layers.family import generator, learnt

mmcv_ops = pytest.importorskip('mmcv.ops', exc_type=ImportError)

GEOMETRIES = {
    'plain': ((6, 4, 3), dict(padding=1)),
    'depthwise': ((6, 6, 3), dict(padding=1, groups=6)),
    'strided': ((6, 4, 3), dict(stride=2, padding=1, deform_groups=3)),
    'dilated': ((6, 8, 3), dict(padding=2, dilation=2, groups=2, deform_groups=2)),
    'not_square': ((6, 4, (3, 1)), dict(padding=(1, 0))),
    'pointwise': ((6, 4, 1), {}),
}
PEERS = {'DCN': mmcv_ops.DeformConv2dPack, 'DCNv2': mmcv_ops.ModulatedDeformConv2dPack}


def pair(version, args, kwargs):
    """MMCV's layer with offsets that move, and ours with its state."""
    theirs = learnt(PEERS[version](*args, bias=version == 'DCNv2', **kwargs))
    ours = DeformConv2d(*args, bias=version == 'DCNv2', modulated=version == 'DCNv2', **kwargs)
    return theirs, ours


@pytest.mark.parametrize('version', PEERS)
@pytest.mark.parametrize('args, kwargs', GEOMETRIES.values(), ids=GEOMETRIES)
def test_outputs_and_gradients_are_mmcvs(version, args, kwargs):
    theirs, ours = pair(version, args, kwargs)
    ours.load_state_dict(theirs.state_dict())
    results = []
    values = torch.randn(2, 6, 9, 11)
    for layer in (ours, theirs):
        x = values.clone().requires_grad_()
        y = layer(x)
        names, parameters = zip(*layer.named_parameters(), strict=True)
        gradients = torch.autograd.grad(y.square().mean(), [x, *parameters])
        results.append(dict(zip(['y', 'x', *names], [y, *gradients], strict=True)))
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize('version', PEERS)
def test_states_load_into_mmcvs_layers(version):
    theirs, ours = pair(version, (6, 4, 3), dict(padding=1, deform_groups=2))
    learnt(ours)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('version', PEERS)
def test_starts_as_mmcvs(version):
    """Weights of the same distribution, uniform with the same bound; the mask at one half."""
    theirs = PEERS[version](64, 64, 3, bias=version == 'DCNv2')
    ours = DeformConv2d(64, 64, 3, bias=version == 'DCNv2', modulated=version == 'DCNv2')
    assert ours.weight.abs().max().item() == pytest.approx(
        theirs.weight.abs().max().item(), rel=1e-3
    )
    assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.02)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 64, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('version', PEERS)
def test_checkpoints_of_old_mmcv_load_as_the_documentation_says(version, tmp_path):
    """They have the offsets of layer `conv2` beside it, as `conv2_offset`."""
    theirs, ours = pair(version, (6, 4, 3), {})
    state = {}
    for name, value in theirs.state_dict().items():
        state[f'conv2.{name}'.replace('conv2.conv_offset', 'conv2_offset')] = value
    torch.save(state, tmp_path / 'old.pth')
    model = nn.ModuleDict({'conv2': ours})
    revise_keys = [(r'(conv\d)_offset\.', r'\1.conv_offset.')]
    load_checkpoint(model, str(tmp_path / 'old.pth'), revise_keys=revise_keys, strict=True)
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_offsets_of_other_options_are_refused():
    layer = nn.Sequential(DeformConv2d(6, 4, 3, bias=False))
    state = nn.Sequential(DeformConv2d(6, 4, 3, bias=False, modulated=True)).state_dict()
    with pytest.raises(
        RuntimeError,
        match=r'size mismatch for 0.conv_offset.weight: \(27, 6, 3, 3\) is in the checkpoint, '
        r'\(18, 6, 3, 3\) is expected with deform_groups=1, modulated=False',
    ):
        layer.load_state_dict(state)


def test_the_generator_is_no_convolution_that_models_initialise():
    assert not isinstance(generator(DeformConv2d(4, 4, 3)), nn.Conv2d)
