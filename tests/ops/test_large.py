"""Tensors of more than 2**31 numbers: most of them lie in pages of zeros that are never touched."""

import pytest
import torch

from mmdk.ops import deform_kernel2d

pytestmark = pytest.mark.slow

ROWS = 2**15 + 1
SHAPE = (1, 2, ROWS, 2**15)  # 2**31 + 2**16 numbers, 4 GiB


@pytest.fixture
def x():
    tensor = torch.zeros(SHAPE, dtype=torch.float16)
    tensor[:, :, -1] = torch.arange(2**15) % 1000
    return tensor


@pytest.mark.parametrize('groups', [1, 2])
def test_input_and_its_gradient(x, groups):
    """A few rows, the last of which lies beyond 2**31."""
    weight = torch.tensor([[2.0, 0.5], [-1.0, 4.0]], dtype=torch.float16)
    weight = weight.diag()[:, None] if groups == 2 else weight
    leaf = x.requires_grad_()
    output = deform_kernel2d(leaf, weight[..., None, None], kernel_size=1, stride=(2**12, 2**7))
    seen = x.detach()[:, :, :: 2**12, :: 2**7]
    matrix = weight[:, 0].diag() if groups == 2 else weight
    assert torch.equal(output, torch.einsum('oc,nchw->nohw', matrix.float(), seen.float()).half())
    output.sum().backward()
    last = leaf.grad[0, :, -1]
    assert torch.equal(last[:, :: 2**7], matrix.sum(0)[:, None].expand(2, 2**8))
    last[:, :: 2**7] = 0
    assert not last.any()


def test_output(x):
    weight = torch.full((2, 1, 1, 1), 2.0, dtype=torch.float16)
    bias = torch.tensor([0.0, 1.0], dtype=torch.float16)
    output = deform_kernel2d(x, weight, bias=bias, kernel_size=1)
    for row in (0, ROWS // 2, ROWS - 1):
        assert torch.equal(output[:, :, row], 2 * x[:, :, row] + bias[:, None])


def test_image_offsets():
    """Many channels: taps with offsets look up one chunk of an image at a time."""
    x = torch.zeros(1, 2**14, 2**9 + 1, 2**8, dtype=torch.float16)
    x[:, -1, -1] = torch.arange(2**8)
    offset = torch.full((1, 2, 9, 4), 0.5, dtype=torch.float16)
    weight = torch.ones(2**14, 1, 1, 1, dtype=torch.float16)
    output = deform_kernel2d(x, weight, image_offset=offset, kernel_size=1, stride=2**6)
    # Half of each neighbour in the last row, half of what lies below it, which is zero.
    assert output[0, -1, -1].tolist() == [0.25, 32.25, 64.25, 96.25]
    assert not output[0, :-1].any()


def test_rows_that_image_offsets_cannot_count():
    x = torch.empty(1, 1, 1, 2**31, dtype=torch.float16)
    offset = torch.zeros(1, 2, 1, 2, dtype=torch.float16)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float16)
    with pytest.raises(ValueError, match='width 2147483648, expected at most 2147483645'):
        deform_kernel2d(x, weight, image_offset=offset, kernel_size=1, stride=(1, 2**30))
