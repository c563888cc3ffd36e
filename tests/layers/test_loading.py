"""Plain weights into deformable layers, by every way that checkpoints are loaded."""

import pytest
import torch
from mmengine.model import initialize
from mmengine.runner import load_checkpoint
from torch import nn

from mmdk.layers import DeformKernel2d


def plain_model():
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))


def deformable_model(device=None):
    """Offsets that are not zero, so that loading has to reset them."""
    model = nn.Sequential(
        DeformKernel2d(4, 4, 3, device=device),
        nn.BatchNorm2d(4, device=device),
        nn.Conv2d(4, 4, 1, device=device),
    )
    nn.init.ones_(model[0].conv_offset.weight)
    nn.init.ones_(model[0].conv_offset.bias)
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
def test_swapped_model_computes_what_the_plain_one_did(load, tmp_path):
    plain, swapped = plain_model(), deformable_model()
    load(swapped, plain, tmp_path / 'plain.pth')
    assert not swapped[0].conv_offset.weight.any() and not swapped[0].conv_offset.bias.any()
    assert_same_output(swapped, plain)


def test_given_state_dict_is_spared():
    state = plain_model().state_dict()
    deformable_model().load_state_dict(state)
    assert state['0.weight'].shape == (4, 4, 3, 3) and '0.conv_offset.weight' not in state


def test_assigning_to_a_model_without_memory():
    plain, swapped = plain_model(), deformable_model(device='meta')
    swapped.load_state_dict(plain.state_dict(), assign=True)
    assert_same_output(swapped, plain)


def test_assigning_half_precision():
    layer = DeformKernel2d(4, 4, 3)
    layer.load_state_dict(nn.Conv2d(4, 4, 3).bfloat16().state_dict(), assign=True)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    assert layer(torch.randn(1, 4, 5, 5).bfloat16()).dtype == torch.bfloat16


def test_half_precision_kernels_are_not_rounded_again():
    plain = nn.Conv2d(4, 4, 3).bfloat16()
    layer = DeformKernel2d(4, 4, 3)
    layer.load_state_dict(plain.state_dict())
    assert_same_output(layer, plain.float())


def test_without_construction():
    """As distributed initialisation does it: parameters exist only once they are loaded."""
    layer = nn.utils.skip_init(DeformKernel2d, 4, 4, 3, offset_clip='scope')
    plain = nn.Conv2d(4, 4, 3)
    layer.load_state_dict(plain.state_dict())
    assert_same_output(layer, plain)


def test_scope_of_the_kernels_size():
    plain, layer = nn.Conv2d(4, 4, 3), DeformKernel2d(4, 4, 3, scope_size=3)
    nn.init.ones_(layer.conv_offset.weight)
    layer.load_state_dict(plain.state_dict())
    assert_same_output(layer, plain)


def test_state_of_another_scope_size_is_refused():
    with pytest.raises(RuntimeError, match='size mismatch for weight'):
        DeformKernel2d(4, 4, 3).load_state_dict(DeformKernel2d(4, 4, 3, scope_size=5).state_dict())


def test_missing_offsets_of_a_deformable_state_are_reported():
    state = DeformKernel2d(4, 4, 3).state_dict()
    del state['conv_offset.weight']
    with pytest.raises(RuntimeError, match='Missing key.*conv_offset.weight'):
        DeformKernel2d(4, 4, 3).load_state_dict(state)


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
