"""Results inferred without data look like the real ones: size, strides, dtype, device."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from tests.ops.test_deform_kernel2d import LAYOUTS
from tests.ops.test_dispatcher import positional
from tests.ops.test_random import cases, options

# dtype of input, weight and bias; then of offsets and mask.
DTYPES = [
    (torch.float64, torch.float64),
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
]


def look(result):
    """All that can be seen of tensors; like PyTorch, no strides along axes that are not walked."""
    tensors = result if isinstance(result, tuple) else (result,)
    return [
        (
            tuple(t.shape),
            [step for step, n in zip(t.stride(), t.shape, strict=True) if t.numel() and n > 1],
            t.dtype,
        )
        for t in tensors
    ]


def assert_inferred(operator, arguments):
    real = operator(*arguments)
    meta = operator(*tree_map_only(torch.Tensor, lambda t: t.to('meta'), arguments))
    assert look(meta) == look(real)
    with FakeTensorMode() as mode:
        fake = operator(*tree_map_only(torch.Tensor, mode.from_tensor, arguments))
    assert look(fake) == look(real)
    results = fake if isinstance(fake, tuple) else (fake,)
    assert all(result.device.type == 'cpu' for result in results)
    return real


@settings(max_examples=200, **options)
@given(
    case=cases(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtypes=st.sampled_from(DTYPES),
    wanted=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_deform_kernel2d(case, layout, dtypes, wanted):
    tensors = {
        name: LAYOUTS[layout](tensor.to(dtypes[name in ('kernel_offset', 'image_offset', 'mask')]))
        for name, tensor in case.tensors().items()
    }
    arguments = positional(case, tensors)
    output = assert_inferred(torch.ops.mmdk.deform_kernel2d, arguments)
    grad = LAYOUTS[layout](torch.ones_like(output))
    assert_inferred(torch.ops.mmdk.deform_kernel2d_backward, [grad, *arguments, wanted])


@settings(max_examples=100, **options)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    batch=st.integers(0, 3),
    extra=st.integers(0, 2),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtypes=st.sampled_from(DTYPES),
    wanted=st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_sample_kernel(sizes, batch, extra, layout, dtypes, wanted):
    *channels, height, width = sizes
    weight = LAYOUTS[layout](torch.ones(*channels, height + extra, width + 1, dtype=dtypes[0]))
    offset = LAYOUTS[layout](torch.zeros(batch, height * width * 2, dtype=dtypes[1]))
    kernels = assert_inferred(torch.ops.mmdk.sample_kernel, [weight, offset, [height, width]])
    arguments = [torch.ones_like(kernels), weight, offset, [height, width], wanted]
    assert_inferred(torch.ops.mmdk.sample_kernel_backward, arguments)
