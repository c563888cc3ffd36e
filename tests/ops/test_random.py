"""The operator against its definition over random geometry, layouts and arguments."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdk.ops import deform_kernel2d, reference
from tests.ops.cases import Case
from tests.ops.test_deform_kernel2d import EXACT, LAYOUTS, check
from tests.ops.test_deform_kernel2d import run as run_operator


def divisors(number):
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def pairs(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def cases(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3, 5, 33, 48, 64]))
    group_in = 1 if groups > 5 else draw(st.integers(1, 4))
    group_out = draw(st.sampled_from([1, 1, 2])) if groups > 5 else draw(st.integers(1, 4))
    channels = groups * group_in
    offset_groups = st.sampled_from(divisors(channels))
    kernel, stride, dilation = draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(1, 3))
    padding, extra = draw(pairs(0, 4)), draw(pairs(0, 3))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    size = [draw(st.integers(n, n + 8)) for n in least]
    if groups > 5 and draw(st.booleans()):
        size[1] += 70  # more than a strip
    image_groups = draw(offset_groups)
    with_image, with_mask = draw(st.booleans()), draw(st.booleans())
    return Case(
        'random',
        batch=draw(st.integers(0, 3)),
        in_channels=channels,
        out_channels=groups * group_out,
        groups=groups,
        size=tuple(size),
        kernel=kernel,
        scope=tuple(k + e for k, e in zip(kernel, extra, strict=True)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        kernel_offset_groups=draw(st.one_of(st.just(0), offset_groups)),
        per_image=draw(st.booleans()),
        image_offset_groups=image_groups if with_image else 0,
        mask_groups=image_groups if with_mask else 0,
        bias=draw(st.booleans()),
    )


def run(case, layout, spread, seed):
    tensors = case.tensors(spread, seed=seed)
    check(case, {name: LAYOUTS[layout](tensor) for name, tensor in tensors.items()}, EXACT)


arguments = given(
    case=cases(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    spread=st.sampled_from([0.2, 1.5, 10.0]),
    seed=st.integers(0, 2**31),
)
options = {
    'deadline': None,
    # The same cases every time: a failure can be looked at, and nothing is flaky.
    'derandomize': True,
    'suppress_health_check': [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


@settings(max_examples=200, **options)
@arguments
def test_some(case, layout, spread, seed):
    run(case, layout, spread, seed)


def check_rounding(case, tensors, operator=deform_kernel2d, of_largest=2e-5):
    """Each result is off by its own rounding and, as sums cancel, by float32's of the largest."""
    dtype = tensors['input'].dtype
    results = run_operator(operator, case, tensors, dtype)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    expected = run_operator(reference.deform_kernel2d, case, exact, dtype)
    for ours, theirs in zip(values(results), values(expected), strict=True):
        if theirs.numel():
            error = (ours.double() - theirs).abs()
            rounding = torch.finfo(dtype).eps * theirs.abs()
            assert (error <= rounding + of_largest * theirs.abs().max().clamp(min=1)).all()


def values(results):
    output, gradients = results
    return [output, *gradients.values()]


@settings(max_examples=100, **options)
@given(
    case=cases(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    offset_dtype=st.sampled_from(['same', torch.float32]),
    seed=st.integers(0, 2**31),
)
def test_dtypes(case, layout, dtype, offset_dtype, seed):
    tensors = case.tensors(dtype=dtype, seed=seed)
    if offset_dtype != 'same':
        for name in {'kernel_offset', 'image_offset', 'mask'} & tensors.keys():
            tensors[name] = tensors[name].to(offset_dtype)
    check_rounding(case, {name: LAYOUTS[layout](tensor) for name, tensor in tensors.items()})


@pytest.mark.slow
@settings(max_examples=3000, **options)
@arguments
def test_thousands(case, layout, spread, seed):
    run(case, layout, spread, seed)


def test_cases_cover_what_matters():
    """Strategies that never reach a path would prove little."""
    seen = set()

    @settings(max_examples=200, database=None, **options)
    @given(case=cases())
    def collect(case):
        depthwise = case.groups == case.in_channels == case.out_channels
        sampled = case.image_offset_groups or case.mask_groups
        seen.add(
            ('depthwise' if depthwise else 'dense') + (' of planes' if sampled else ' of rows')
        )
        seen.update(name for name in ('per_image', 'bias') if getattr(case, name))
        seen.update(['empty'] if case.batch == 0 else [])
        seen.update(['strips'] if case.out_size[1] > 64 else [])

    collect()
    passes = {f'{kind} of {what}' for kind in ('depthwise', 'dense') for what in ('rows', 'planes')}
    assert seen == passes | {'per_image', 'bias', 'empty', 'strips'}


def test_random_tensors_are_reproducible():
    case = Case('same')
    first, second = case.tensors(seed=5), case.tensors(seed=5)
    assert all(torch.equal(first[name], second[name]) for name in first)
