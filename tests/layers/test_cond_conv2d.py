"""The layer 'CondConv' against a loop over images and experts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdk.layers import CondConv2d
from tests.layers.family import learnt


def one_by_one(layer, x):
    """Every image, every expert."""
    outputs = []
    for image in x:
        logits = layer.routing.weight @ image.mean((1, 2)) + layer.routing.bias
        padded = image[None]
        if layer.padding_mode != 'zeros':
            (vertical, horizontal), mode = layer.padding, layer.padding_mode
            padded = F.pad(padded, (horizontal, horizontal, vertical, vertical), mode)
        padding = layer.padding if layer.padding_mode == 'zeros' else 0
        biases = [None] * layer.num_experts if layer.bias is None else layer.bias
        outputs.append(
            sum(
                share
                * F.conv2d(
                    padded, kernel, bias, layer.stride, padding, layer.dilation, layer.groups
                )
                for share, kernel, bias in zip(
                    torch.sigmoid(logits), layer.weight, biases, strict=True
                )
            )
        )
    return torch.cat(outputs)


@pytest.mark.parametrize(
    'args, kwargs',
    [
        ((6, 4, 3), dict(padding=1)),
        ((6, 6, 3), dict(padding=1, groups=6, stride=2, bias=False)),
        ((6, 4, (1, 3)), dict(groups=2, dilation=2, num_experts=3)),
        ((6, 8, 1), dict(num_experts=1)),
        ((6, 4, 3), dict(padding=2, padding_mode='reflect')),
        ((6, 4, 3), dict(padding=(2, 1), padding_mode='circular', num_experts=5)),
    ],
)
def test_forward_is_the_mixture_of_the_experts_outputs(args, kwargs):
    layer = learnt(CondConv2d(*args, **kwargs)).double()
    # Images with means of their own: they are all that the routing sees.
    x = torch.randn(3, 6, 9, 11, dtype=torch.float64) + 3 * torch.randn(3, 6, 1, 1)
    leaves = [x.requires_grad_(), *layer.parameters()]
    results = [
        [y, *torch.autograd.grad(y.square().sum(), leaves)]
        for y in (layer(x), one_by_one(layer, x))
    ]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert layer.expert_weights(x).std(0).min() > 0.01


def test_experts_part_while_training():
    """Equal ones would have equal gradients and stay equal."""
    for lifted in (False, True):
        layer = CondConv2d(4, 4, 3, num_experts=3)
        if lifted:
            layer.load_state_dict(nn.Conv2d(4, 4, 3).state_dict())
        layer(torch.randn(2, 4, 6, 6)).square().mean().backward()
        experts, gradients = layer.weight.detach(), layer.routing.weight.grad
        assert (experts[0] - experts[1]).abs().max() > 1e-3
        assert (gradients[0] - gradients[1]).abs().max() > 1e-6


def test_new_experts_have_the_variance_of_independent_draws():
    layer = CondConv2d(64, 64, 3, num_experts=8)
    kernel_variance = 1 / (3 * 64 * 9)
    expected = kernel_variance / (8 * 0.5**2)
    assert layer.weight.var().item() == pytest.approx(expected, rel=0.05)


def test_a_checkpoint_always_gives_the_same_layer():
    state = nn.Conv2d(4, 4, 3).state_dict()
    layers = [CondConv2d(4, 4, 3) for _ in range(2)]
    for layer in layers:
        layer.load_state_dict(state)
    assert torch.equal(layers[0].weight, layers[1].weight)


def test_lifting_leaves_the_random_numbers_alone():
    layer, state = CondConv2d(4, 4, 3), nn.Conv2d(4, 4, 3).state_dict()
    before = torch.get_rng_state()
    layer.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_number_of_experts_is_refused():
    state = nn.Sequential(CondConv2d(4, 4, 3, num_experts=4)).state_dict()
    with pytest.raises(
        RuntimeError,
        match='size mismatch for 0.weight: 4 experts are in the checkpoint, and num_experts '
        'here is 8. Build the layer with num_experts=4',
    ):
        nn.Sequential(CondConv2d(4, 4, 3)).load_state_dict(state)
