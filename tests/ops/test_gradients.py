"""Gradients against finite differences, and at the points where the operator has a kink."""

import pytest
import torch

from mmdk.ops import deform_kernel2d, reference, sample_kernel
from tests.ops.cases import DENSE, DEPTHWISE, EVERYTHING, Case, ids

MAIN = [DENSE, DEPTHWISE, EVERYTHING]

SMALL = [
    Case('dense', batch=1, in_channels=3, out_channels=2, size=(3, 4), bias=True),
    Case('depthwise', batch=1, in_channels=2, out_channels=2, groups=2, size=(3, 4)),
    Case('global', batch=2, in_channels=2, out_channels=2, size=(3, 3), per_image=True),
    Case(
        'everything',
        batch=2,
        in_channels=4,
        out_channels=2,
        groups=2,
        size=(3, 3),
        kernel=(2, 3),
        scope=(3, 4),
        kernel_offset_groups=2,
        image_offset_groups=2,
        mask_groups=2,
        bias=True,
    ),
    Case(
        'depthwise_dcn',
        batch=1,
        in_channels=2,
        out_channels=2,
        groups=2,
        size=(3, 3),
        scope=(3, 3),
        kernel_offset_groups=0,
        image_offset_groups=1,
        mask_groups=1,
    ),
]


def away_from_integers(offset, rest):
    """Move offsets so that `rest + offset` is at least 0.1 from every integer."""
    coordinate = rest + offset
    low = coordinate.floor()
    return low + (coordinate - low).clamp(0.1, 0.9) - rest


def smooth_tensors(case):
    tensors = case.tensors()
    taps = torch.cartesian_prod(*(torch.arange(k) for k in case.kernel)).double()
    scope, kernel = torch.tensor(case.scope), torch.tensor(case.kernel)
    rest = (taps + (scope - kernel) / 2).flatten()
    if 'kernel_offset' in tensors:
        rest = rest.repeat(case.kernel_offset_groups)[:, None, None]
        tensors['kernel_offset'] = away_from_integers(tensors['kernel_offset'], rest)
    if 'image_offset' in tensors:
        tensors['image_offset'] = away_from_integers(tensors['image_offset'], 0)
    return tensors


@pytest.mark.parametrize('case', SMALL, ids=ids(SMALL))
def test_every_input(case):
    tensors = {name: t.requires_grad_() for name, t in smooth_tensors(case).items()}
    for name in tensors:
        others = {key: value.detach() for key, value in tensors.items() if key != name}

        def of_one(tensor, name=name, others=others):
            return deform_kernel2d(**{name: tensor}, **others, **case.geometry)

        assert torch.autograd.gradcheck(of_one, (tensors[name],), fast_mode=False), name


def test_sample_kernel():
    weight = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    rest = (
        torch.cartesian_prod(torch.arange(3), torch.arange(2)) + torch.tensor([0.5, 1.5])
    ).flatten()
    offset = away_from_integers(torch.randn(2, 12, dtype=torch.float64), rest.double())
    assert torch.autograd.gradcheck(
        lambda w, o: sample_kernel(w, o, (3, 2)), (weight, offset.requires_grad_())
    )


@pytest.mark.parametrize('case', MAIN, ids=ids(MAIN))
def test_whole_offsets_equal_the_definition(case):
    """At integer coordinates too, where derivatives are one-sided."""
    tensors = case.tensors()
    for name in ('kernel_offset', 'image_offset'):
        if name in tensors:
            # Halves put the taps of an even-odd pair (S, K) = (4, 3) on whole scope cells.
            tensors[name] = (tensors[name] * 2).round() / 2
    gradients = []
    for operator in (deform_kernel2d, reference.deform_kernel2d):
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        operator(**leaves, **case.geometry).square().sum().backward()
        gradients.append({name: leaf.grad for name, leaf in leaves.items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize('operator', [deform_kernel2d, reference.deform_kernel2d])
def test_derivative_at_an_integer_points_up(operator):
    scope = torch.tensor([[3.0, 5.0, 11.0]], dtype=torch.float64).view(1, 1, 1, 3)
    offset = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    output = operator(x, scope, offset, kernel_size=1)
    assert output.item() == 5.0
    output.backward()
    # Towards +1 in x: 11 - 5, not 5 - 3. Below in y there is no cell: 0 - 5.
    assert offset.grad.flatten().tolist() == [-5.0, 6.0]


@pytest.mark.parametrize('operator', [deform_kernel2d, reference.deform_kernel2d])
@pytest.mark.parametrize(
    'offset, value, slope',
    [
        (-1.0, 0.0, 0.0),  # coordinate -1: outside
        (-0.999, 0.003, 3.0),  # just inside: fades in
        (2.0, 11.0, -11.0),
        (2.999, 0.011, -11.0),
        (3.0, 0.0, 0.0),  # coordinate = size: outside
        (1e30, 0.0, 0.0),
    ],
)
def test_border_of_the_scope(operator, offset, value, slope):
    scope = torch.tensor([3.0, 5.0, 11.0], dtype=torch.float64).view(1, 1, 1, 3)
    # The scope is 2 wider than the kernel, so a tap rests at 1.
    offsets = torch.tensor([0.0, offset - 1], dtype=torch.float64).view(1, 2, 1, 1).requires_grad_()
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    output = operator(x, scope, offsets, kernel_size=1)
    output.backward()
    assert output.item() == pytest.approx(value, abs=1e-12)
    assert offsets.grad[0, 1].item() == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize(
    'case, name',
    [
        (DENSE, 'kernel_offset'),
        (DEPTHWISE, 'kernel_offset'),
        (EVERYTHING, 'kernel_offset'),
        (EVERYTHING, 'image_offset'),
    ],
)
def test_offsets_that_are_not_finite_contribute_zero(case, name, bad):
    tensors = case.tensors()
    far = tensors[name].clone()
    tensors[name][:, ::3] = bad
    far[:, ::3] = 1e6
    results = []
    for offsets in (tensors[name], far):
        leaves = {k: v.detach().requires_grad_() for k, v in {**tensors, name: offsets}.items()}
        output = deform_kernel2d(**leaves, **case.geometry)
        output.sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves.values())])
    for with_bad, with_far in zip(*results, strict=True):
        assert with_bad.isfinite().all()
        torch.testing.assert_close(with_bad, with_far, rtol=0, atol=0)


class _NoGradient(torch.autograd.Function):
    """The identity, whose gradient is undefined: none reaches what is before it."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, grad):
        return None


def test_undefined_gradient_stays_undefined():
    tensors = {name: t.requires_grad_() for name, t in EVERYTHING.tensors().items()}
    _NoGradient.apply(deform_kernel2d(**tensors, **EVERYTHING.geometry)).sum().backward()
    assert all(tensor.grad is None for tensor in tensors.values())
    weight = torch.randn(1, 1, 4, 4, requires_grad=True)
    _NoGradient.apply(sample_kernel(weight, torch.zeros(1, 18), 3)).sum().backward()
    assert weight.grad is None


@pytest.mark.parametrize('case', MAIN, ids=ids(MAIN))
def test_layout_of_the_gradient_does_not_matter(case):
    """One number expanded, as from sum(); channels_last; and every second element."""
    leaves = {name: t.requires_grad_() for name, t in case.tensors().items()}
    output = deform_kernel2d(**leaves, **case.geometry)
    values = torch.ones((), dtype=output.dtype).expand(output.shape)
    layouts = [
        values,
        values.contiguous(memory_format=torch.channels_last),
        torch.stack([values, 2 * values], -1)[..., 0],
    ]
    results = [
        torch.autograd.grad(output, list(leaves.values()), layout, retain_graph=True)
        for layout in [values.contiguous(), *layouts]
    ]
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_expanded_gradient_of_sample_kernel():
    weight, offset = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 18)
    kernels = sample_kernel(weight, offset.requires_grad_(), 3)
    expected = torch.autograd.grad(
        kernels, (weight, offset), torch.ones_like(kernels), retain_graph=True
    )
    assert all(map(torch.equal, torch.autograd.grad(kernels.sum(), (weight, offset)), expected))
