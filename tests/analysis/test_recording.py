import torch
from torch import nn

from mmdk.analysis import over_the_image, record_kernel_offsets
from mmdk.analysis.recording import each_call
from mmdk.layers import DeformConv2d, DeformKernel2d


def test_calls_of_layers_that_have_the_method_with_gradients_off():
    model = nn.Sequential(
        DeformKernel2d(3, 3, 3), nn.Conv2d(3, 3, 3), DeformConv2d(3, 3, 3, bias=False)
    )
    seen = []

    def record(name, layer, x):
        seen.append((name, layer, tuple(x.shape), torch.is_grad_enabled()))

    with each_call(model, 'kernel_offset', record), each_call(model, 'image_offset', record):
        model(torch.randn(2, 3, 9, 9))
    model(torch.randn(2, 3, 9, 9))
    assert seen == [
        ('0', model[0], (2, 3, 9, 9), False),
        ('2', model[2], (2, 3, 5, 5), False),
    ]


def test_empty_batches_are_no_calls():
    """RoI heads have them."""
    model = nn.Sequential(DeformKernel2d(3, 3, 3))
    with record_kernel_offsets(model) as records:
        model(torch.randn(0, 3, 7, 7))
    assert records == []


def test_over_the_image_are_first_calls_on_one_image():
    model = nn.ModuleDict(dict(head=DeformKernel2d(3, 3, 3), roi=DeformKernel2d(3, 3, 3)))
    with record_kernel_offsets(model) as records:
        model['roi'](torch.randn(5, 3, 7, 7))
        for size in (16, 8):
            model['head'](torch.randn(1, 3, size, size))
    assert len(records) == 3
    (record,) = over_the_image(records)
    assert record.name == 'head' and record.offsets.shape[-2:] == (14, 14)
