"""State dicts of plain models, converted to those of models with deformable layers."""

import copy

import pytest
import torch
from torch import nn

from mmdk import modules
from mmdk.checkpoints import convert_state_dict
from mmdk.layers import DeformConv2d, DeformKernel2d
from tests.layers.family import VARIANTS, is_at_rest, learnt


class Network(nn.Module):
    """A backbone and a head; in the image of the detectors that are converted."""

    def __init__(self, make=nn.Conv2d, classes=5):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), make(4, 4, 3), nn.BatchNorm2d(4))
        self.head_conv = make(4, classes, 3)

    def forward(self, x):
        return self.head_conv(self.backbone(x))


def plain(**options):
    model = Network(**options)
    nn.init.normal_(model.backbone[2].running_mean)
    return model


def swapped(make=DeformKernel2d, **options):
    """Learnt already, so that what is converted has to reset it."""
    model = Network(make, **options)
    learnt(model.backbone[1]), learnt(model.head_conv)
    return model


@pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)
def test_lifted(make):
    source = plain()
    conversion = convert_state_dict(source.state_dict(), swapped(make))
    assert conversion.lifted == ['backbone.1', 'head_conv']
    assert conversion.taken_over == [
        name for name in source.state_dict() if name.startswith(('backbone.0', 'backbone.2'))
    ]
    assert conversion.released == conversion.left_out == conversion.missing == []
    model = swapped(make)
    model.load_state_dict(conversion.state_dict, strict=True)
    assert is_at_rest(model.backbone[1]) and is_at_rest(model.head_conv)
    x = torch.randn(2, 3, 8, 9)
    source.eval(), model.eval()
    torch.testing.assert_close(model(x), source(x), rtol=1e-5, atol=1e-5)


def test_the_type_of_layer_is_written_down():
    """So that a layer of another type, whose shapes all fit, refuses the result."""
    state = convert_state_dict(plain().state_dict(), swapped()).state_dict
    with pytest.raises(RuntimeError, match="saved by a layer of type 'DK'"):
        swapped(DeformConv2d).load_state_dict(state)


def test_the_given_state_dict_is_spared():
    state = plain().state_dict()
    before = copy.deepcopy(state)
    convert_state_dict(state, swapped())
    assert list(state) == list(before) and state._metadata == before._metadata
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_report():
    source = plain()
    state = {**source.state_dict(), 'fc.weight': torch.ones(3)}
    assert convert_state_dict(state, swapped()).report() == (
        '2 lifted from plain convolutions: backbone.1, head_conv\n'
        '7 taken over as they are: backbone.0.weight, backbone.0.bias, backbone.2.weight, '
        'backbone.2.bias, backbone.2.running_mean, backbone.2.running_var, '
        'backbone.2.num_batches_tracked\n'
        '1 left out of what was read: fc.weight'
    )


def test_names_of_data_parallel_training():
    state = {f'module.{name}': value for name, value in plain().state_dict().items()}
    assert convert_state_dict(state, swapped()).lifted == ['backbone.1', 'head_conv']


@pytest.mark.parametrize(
    'source',
    [nn.Conv2d(4, 4, 3, bias=False), modules.DeformKernel2d((4, 4), 4, 4, 3)],
    ids=['plain', 'released'],
)
def test_a_layer_with_several_names(source):
    """As in heads that share their towers between levels."""

    def shared(layer):
        return nn.ModuleDict(dict(first=layer, second=layer, norm=nn.BatchNorm2d(4)))

    model = shared(DeformKernel2d(4, 4, 3, bias=False))
    conversion = convert_state_dict(shared(source).state_dict(), model)
    assert conversion.lifted + conversion.released == ['first', 'second']
    assert all(name.startswith('norm.') for name in conversion.taken_over)
    x = torch.randn(1, 4, 6, 7)
    torch.testing.assert_close(model['second'](x), source(x), rtol=1e-5, atol=1e-5)


def test_prefix():
    source = plain()
    conversion = convert_state_dict(source.state_dict(), swapped().backbone, prefix='backbone.')
    assert conversion.lifted == ['1'] and '1.conv_offset.bias' in conversion.state_dict
    with pytest.raises(ValueError, match=r"'backbon\.' is that of no entr.*Closest: 'backbone\.'"):
        convert_state_dict(source.state_dict(), swapped().backbone, prefix='backbon.')


def test_prefix_keeps_what_tells_types_apart():
    """Without the metadata below the prefix, offsets of the image would pass for the kernel's."""
    saved = nn.ModuleDict(dict(net=nn.Sequential(DeformConv2d(4, 4, 3)))).state_dict()
    model = nn.Sequential(DeformKernel2d(4, 4, 3, scope_size=3))
    with pytest.raises(ValueError, match="0.weight was saved by a layer of type 'FastDCN'"):
        convert_state_dict(saved, model, prefix='net.')


def test_a_classifier_may_be_left_over():
    state = {**plain().state_dict(), 'fc.weight': torch.ones(3), 'fc.bias': torch.ones(3)}
    assert convert_state_dict(state, swapped()).left_out == ['fc.weight', 'fc.bias']
    model = swapped()
    model.fc = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r'size mismatch for fc\.weight'):
        convert_state_dict(state, model)


def test_what_does_not_fit_is_listed_with_the_closest():
    state = plain().state_dict()
    state['backbone.1.wieght'] = state.pop('backbone.1.weight')
    with pytest.raises(ValueError) as error:
        convert_state_dict(state, swapped())
    message = str(error.value)
    assert '1 have no place in the model:' in message
    assert 'backbone.1.wieght (closest that is missing: backbone.1.weight)' in message
    assert 'are not there: backbone.1.weight, backbone.1.conv_offset.weight' in message


def test_long_lists_are_cut():
    state = {**plain().state_dict(), **{f'x{i}': torch.ones(1) for i in range(30)}}
    with pytest.raises(ValueError, match='30 have no place in the model') as error:
        convert_state_dict(state, swapped())
    assert len(str(error.value).splitlines()) < 16


def test_a_detectors_weights_for_its_backbone():
    with pytest.raises(ValueError, match=r"longer names there: try prefix='backbone\.'"):
        convert_state_dict(plain().state_dict(), swapped().backbone)


def test_a_backbones_weights_for_the_detector():
    with pytest.raises(ValueError, match="part of the model: convert them for 'backbone' .--part"):
        convert_state_dict(plain().backbone.state_dict(), swapped())


def test_a_head_of_other_classes():
    state = plain(classes=80).state_dict()
    with pytest.raises(ValueError, match=r'size mismatch for head_conv\.bias(.|\n)*leave_out'):
        convert_state_dict(state, swapped())

    conversion = convert_state_dict(state, swapped(), leave_out=[r'head_conv\..*'])
    assert conversion.lifted == ['backbone.1']
    assert conversion.left_out == ['head_conv.weight', 'head_conv.bias']
    assert conversion.missing == [
        f'head_conv.{name}' for name in ('weight', 'bias', 'conv_offset.weight', 'conv_offset.bias')
    ]
    assert all(name.startswith('backbone.') for name in conversion.state_dict)
    assert '4 not in what was read, and not written: head_conv.weight' in conversion.report()


def test_offsets_that_are_left_out():
    """The kernels alone of a model with deformable convolutions, as the refusal proposes."""
    source = swapped(DeformConv2d)
    with pytest.raises(ValueError, match=r'backbone\.1\.conv_offset\.weight is in the checkpoint'):
        convert_state_dict(source.state_dict(), swapped())
    state = source.state_dict()
    conversion = convert_state_dict(state, swapped(), leave_out=[r'.*\.conv_offset\..*'])
    assert conversion.lifted == ['backbone.1', 'head_conv']
    model = swapped()
    model.load_state_dict(conversion.state_dict, strict=True)
    assert is_at_rest(model.backbone[1])


@pytest.mark.parametrize(
    'pattern, message',
    [
        (r'haed_conv\..*', r'matches no entry; .*whole name. Closest: .head_conv'),
        ('head_conv', 'matches no entry'),
        ('head(', 'no regular expression'),
    ],
)
def test_patterns_that_match_nothing(pattern, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict(plain().state_dict(), swapped(), leave_out=[pattern])


def test_another_scope_size():
    state = swapped(lambda *args: DeformKernel2d(*args, scope_size=5)).state_dict()
    with pytest.raises(
        ValueError,
        match=r'backbone.1.weight: a scope of \(5, 5\) is in the checkpoint, and scope_size here '
        r'is \(4, 4\). Build the layer with scope_size=\(5, 5\)',
    ):
        convert_state_dict(state, swapped())


@pytest.mark.parametrize('dtype', [torch.int8, torch.complex64])
def test_weights_that_are_no_real_numbers(dtype):
    state = plain().state_dict()
    state['backbone.1.weight'] = state['backbone.1.weight'].to(dtype)
    with pytest.raises(ValueError, match=rf'backbone\.1\.weight is {dtype} .*torch\.float32 here'):
        convert_state_dict(state, swapped())


def test_weights_of_another_precision():
    state = plain().half().state_dict()
    converted = convert_state_dict(state, swapped()).state_dict
    assert converted['backbone.1.weight'].dtype == torch.float32


def test_nothing_to_convert():
    with pytest.raises(ValueError, match='already entries of this model. Load it as it is'):
        convert_state_dict(swapped().state_dict(), swapped())
    with pytest.raises(ValueError, match='Network has no deformable layers'):
        convert_state_dict(plain().state_dict(), plain())
    with pytest.raises(ValueError, match='no entries'):
        convert_state_dict({}, swapped())
