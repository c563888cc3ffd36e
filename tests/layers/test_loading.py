"""Plain weights into deformable layers, by every way that checkpoints are loaded."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.model import initialize
from mmengine.runner import load_checkpoint
from torch import nn

from mmdk.layers import DeformKernel2d
from tests.layers.family import CLASSES, VARIANTS, generator, is_at_rest, learnt

every_layer = pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)


def plain_model():
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))


def deformable_model(make=DeformKernel2d, device=None):
    """Offsets that are not zero, so that loading has to reset them."""
    model = nn.Sequential(
        make(4, 4, 3, device=device),
        nn.BatchNorm2d(4, device=device),
        nn.Conv2d(4, 4, 1, device=device),
    )
    for parameter in generator(model[0]).parameters():
        nn.init.ones_(parameter)
    return model


def dcn_state(scale=1.0):
    """What a layer of MMCV's deformable convolution saves: offsets of the same name and shape."""
    state = nn.Conv2d(4, 4, 3).state_dict()
    offsets = {'weight': torch.full((18, 4, 3, 3), scale), 'bias': torch.full((18,), scale)}
    return {**state, **{f'conv_offset.{name}': value for name, value in offsets.items()}}


def assert_same_output(swapped, plain, tolerance=1e-5):
    x = torch.randn(2, 4, 6, 7)
    swapped.eval(), plain.eval()
    torch.testing.assert_close(swapped(x), plain(x), rtol=tolerance, atol=tolerance)


def load_state_dict(model, plain, path):
    model.load_state_dict(plain.state_dict())


def load_twice(model, plain, path):
    model.load_state_dict(plain.state_dict())
    model.load_state_dict(plain.state_dict())


def mmengine_checkpoint(model, plain, path):
    torch.save({'state_dict': plain.state_dict()}, path)
    load_checkpoint(model, str(path), strict=True)


def mmengine_checkpoint_of_data_parallel(model, plain, path):
    torch.save({f'module.{k}': v for k, v in plain.state_dict().items()}, path)
    load_checkpoint(model, str(path), strict=True)


def init_cfg_with_prefix(model, plain, path):
    torch.save({f'backbone.{k}': v for k, v in plain.state_dict().items()}, path)
    initialize(model, dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'))


@every_layer
@pytest.mark.parametrize(
    'load',
    [
        load_state_dict,
        load_twice,
        mmengine_checkpoint,
        mmengine_checkpoint_of_data_parallel,
        init_cfg_with_prefix,
    ],
)
def test_swapped_model_computes_what_the_plain_one_did(load, make, tmp_path):
    plain, swapped = plain_model(), deformable_model(make)
    load(swapped, plain, tmp_path / 'plain.pth')
    assert is_at_rest(swapped[0])
    assert_same_output(swapped, plain)


@every_layer
def test_given_state_dict_is_spared(make):
    state = plain_model().state_dict()
    names, values = list(state), [value.clone() for value in state.values()]
    deformable_model(make).load_state_dict(state)
    assert list(state) == names
    assert all(map(torch.equal, state.values(), values))


@every_layer
def test_assigning_to_a_model_without_memory(make):
    plain, swapped = plain_model(), deformable_model(make, device='meta')
    swapped.load_state_dict(plain.state_dict(), assign=True)
    assert_same_output(swapped, plain)


@every_layer
def test_assigning_half_precision(make):
    layer = make(4, 4, 3)
    layer.load_state_dict(nn.Conv2d(4, 4, 3).bfloat16().state_dict(), assign=True)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    assert layer(torch.randn(1, 4, 5, 5).bfloat16()).dtype == torch.bfloat16


@every_layer
def test_half_precision_kernels_are_not_rounded_again(make):
    plain = nn.Conv2d(4, 4, 3).bfloat16()
    layer = make(4, 4, 3)
    layer.load_state_dict(plain.state_dict())
    assert_same_output(layer, plain.float())


@every_layer
def test_without_construction(make):
    """As distributed initialisation does it: parameters exist only once they are loaded."""
    layer = nn.utils.skip_init(type(make(4, 4, 3)), 4, 4, 3)
    plain = nn.Conv2d(4, 4, 3)
    layer.load_state_dict(plain.state_dict())
    assert_same_output(layer, plain)


def test_scope_of_the_kernels_size():
    plain, layer = nn.Conv2d(4, 4, 3), DeformKernel2d(4, 4, 3, scope_size=3)
    nn.init.ones_(layer.conv_offset.weight)
    layer.load_state_dict(plain.state_dict())
    assert_same_output(layer, plain)


@pytest.mark.parametrize('kind', ['DK', 'GlobalDK', 'DKDCN'])
def test_state_of_another_scope_size_is_refused(kind):
    state = nn.Sequential(CLASSES[kind](4, 4, 3, scope_size=5)).state_dict()
    with pytest.raises(
        RuntimeError,
        match=r'size mismatch for 0.weight: a scope of \(5, 5\) is in the checkpoint, and '
        r'scope_size here is \(4, 4\). Build the layer with scope_size=\(5, 5\). Nothing',
    ):
        nn.Sequential(CLASSES[kind](4, 4, 3)).load_state_dict(state)


@every_layer
def test_plain_state_of_another_kernel_size_is_refused(make):
    with pytest.raises(
        RuntimeError,
        match=r'size mismatch for 0.weight: a plain \(5, 5\) kernel is in the checkpoint, and '
        r'kernel_size here is \(3, 3\). Build the layer with kernel_size=\(5, 5\)',
    ):
        nn.Sequential(make(4, 4, 3)).load_state_dict(nn.Sequential(nn.Conv2d(4, 4, 5)).state_dict())


# Kinds and options with which a 1 x 1 layer of one has exactly the entries of the other.
SAME_ENTRIES = [
    (('DK', {}), ('GlobalDK', {})),
    (('GlobalDK', {}), ('DK', {})),
    (('DK', dict(offset_groups=2)), ('DKDCN', {})),
    (('DKDCN', {}), ('GlobalDK', dict(offset_groups=2))),
    (('FastDCN', {}), ('DK', dict(scope_size=1))),
    (('DK', dict(scope_size=1)), ('FastDCN', {})),
]


@pytest.mark.parametrize('through_file', [False, True])
@pytest.mark.parametrize('saved, built', SAME_ENTRIES)
def test_state_of_another_type_is_refused_though_all_shapes_fit(
    saved, built, through_file, tmp_path
):
    source, target = (nn.Sequential(CLASSES[kind](4, 4, 1, **cfg)) for kind, cfg in (saved, built))
    learnt(source[0])
    state = source.state_dict()
    if through_file:
        torch.save(state, tmp_path / 'state.pth')
        state = torch.load(tmp_path / 'state.pth', weights_only=True)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    message = f"0.weight was saved by a layer of type '{saved[0]}'.*of type '{built[0]}' here"
    with pytest.raises(RuntimeError, match=message):
        target.load_state_dict(state)
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('saved, built', list(itertools.permutations(CLASSES, 2)))
def test_every_other_type_is_refused(saved, built):
    state = nn.Sequential(CLASSES[saved](4, 4, 3)).state_dict()
    with pytest.raises(RuntimeError, match='0.weight .*Nothing was loaded into this layer'):
        nn.Sequential(CLASSES[built](4, 4, 3)).load_state_dict(state)


def test_mmcvs_offsets_are_refused_though_all_shapes_fit():
    """A scope of the kernel's size leaves only the version of the state to tell them apart."""
    ops = pytest.importorskip('mmcv.ops', exc_type=ImportError)
    state = nn.Sequential(ops.DeformConv2dPack(4, 4, 3, bias=False)).state_dict()
    layer = nn.Sequential(DeformKernel2d(4, 4, 3, bias=False, scope_size=3))
    with pytest.raises(RuntimeError, match="0.weight was saved by a layer of type 'DCN'"):
        layer.load_state_dict(state)


def test_other_offset_groups_are_refused():
    state = nn.Sequential(DeformKernel2d(4, 4, 3, offset_groups=2)).state_dict()
    with pytest.raises(
        RuntimeError, match='size mismatch for 0.conv_offset.weight: .*with offset_groups=1'
    ):
        nn.Sequential(DeformKernel2d(4, 4, 3)).load_state_dict(state)


def test_missing_offsets_of_a_deformable_state_are_reported():
    state = DeformKernel2d(4, 4, 3).state_dict()
    del state['conv_offset.weight']
    with pytest.raises(RuntimeError, match='Missing key.*conv_offset.weight'):
        DeformKernel2d(4, 4, 3).load_state_dict(state)


@every_layer
def test_what_is_no_tensor_is_refused_as_by_conv2d(make):
    state = {'weight': np.zeros((4, 4, 3, 3)), 'bias': torch.zeros(4)}
    with pytest.raises(RuntimeError, match='expected torch.Tensor or Tensor-like object'):
        make(4, 4, 3).load_state_dict(state)


def test_deformable_convolutions_state_is_refused():
    with pytest.raises(RuntimeError, match='offsets of another kind of layer'):
        DeformKernel2d(4, 4, 3).load_state_dict(dcn_state())


def test_deformable_convolutions_checkpoint_changes_nothing(tmp_path, caplog):
    """MMEngine logs what was refused and goes on."""
    torch.save(dcn_state(), tmp_path / 'dcn.pth')
    layer = DeformKernel2d(4, 4, 3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    load_checkpoint(layer, str(tmp_path / 'dcn.pth'), strict=False)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_deformable_convolutions_checkpoint_lifts_as_the_message_says(tmp_path):
    state = dcn_state()
    torch.save(state, tmp_path / 'dcn.pth')
    layer = DeformKernel2d(4, 4, 3)
    load_checkpoint(
        layer,
        str(tmp_path / 'dcn.pth'),
        strict=False,
        revise_keys=[(r'\bconv_offset\b', 'ignored_offset')],
    )
    plain = nn.Conv2d(4, 4, 3)
    plain.load_state_dict({name: state[name] for name in ('weight', 'bias')})
    assert_same_output(layer, plain)
