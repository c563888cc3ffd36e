import pytest
import torch

from mmdk.ops import deform_kernel2d, reference, sample_kernel


@pytest.mark.parametrize('batch', [0, 1, 3])
@pytest.mark.parametrize('kernel, scope', [((3, 3), (4, 4)), ((1, 3), (2, 6)), ((2, 2), (2, 2))])
def test_equals_the_definition(batch, kernel, scope):
    weight = torch.randn(5, 2, *scope, dtype=torch.float64, requires_grad=True)
    taps = kernel[0] * kernel[1]
    offset = (1.5 * torch.randn(batch, taps * 2, dtype=torch.float64)).requires_grad_()
    kernels = sample_kernel(weight, offset, kernel)
    expected = reference.sample_kernel(weight, offset, kernel)
    torch.testing.assert_close(kernels, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(kernels)
    for ours, theirs in zip(
        torch.autograd.grad(kernels, (weight, offset), grad),
        torch.autograd.grad(expected, (weight, offset), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    weight, offset = torch.randn(5, 2, 4, 4).to(dtype), torch.randn(2, 18)
    kernels = sample_kernel(weight, offset, 3)
    assert kernels.dtype == dtype
    expected = reference.sample_kernel(weight.double(), offset.double(), 3)
    torch.testing.assert_close(kernels, expected.to(dtype))


def test_one_kernel_per_image_is_what_the_global_form_convolves_with():
    x = torch.randn(3, 4, 6, 7, dtype=torch.float64)
    weight = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    offset = torch.randn(3, 18, dtype=torch.float64)
    output = deform_kernel2d(x, weight, offset[:, :, None, None], kernel_size=3, padding=1)
    kernels = sample_kernel(weight, offset, 3)
    for image, kernel, expected in zip(x, kernels, output, strict=True):
        torch.testing.assert_close(
            torch.nn.functional.conv2d(image[None], kernel, padding=1)[0], expected
        )


@pytest.mark.parametrize(
    'changed, message',
    [
        ({'weight': torch.zeros(1, 1, 4)}, r'weight must be .* got shape \[1, 1, 4\]'),
        ({'weight': torch.zeros(1, 0, 4, 4)}, 'weight has shape .* at least one output and one'),
        ({'weight': torch.zeros(1, 1, 2, 4)}, r'the scope of weight, \(2, 4\), is smaller'),
        ({'weight': torch.zeros(1, 1, 4, 4).int()}, 'weight has dtype Int, .* torch.float32'),
        ({'weight': torch.zeros(1, 1, 4, 4).to(torch.float8_e5m2)}, 'weight has dtype Float8'),
        ({'kernel_offset': torch.zeros(2, 17)}, r'kernel_offset must be .* \(N, 18\), got shape'),
        ({'kernel_offset': torch.zeros(2, 18).double()}, 'kernel_offset has dtype torch.float64'),
        ({'kernel_offset': torch.zeros(2, 18, device='meta')}, 'kernel_offset is on meta'),
        ({'kernel_size': 0}, 'kernel_size must be a positive int'),
    ],
)
def test_bad_arguments(changed, message):
    arguments = {'weight': torch.zeros(1, 1, 4, 4), 'kernel_offset': torch.zeros(2, 18)}
    arguments |= {'kernel_size': 3, **changed}
    with pytest.raises(ValueError, match=message):
        sample_kernel(**arguments)


@pytest.mark.parametrize(
    'grad, message',
    [
        (torch.zeros(9, 1, 1, 2, 1), r'shape \[9, 1, 1, 2, 1\], expected'),
        (torch.zeros(2, 1, 1, 3, 3).double(), 'dtype torch.float64 but weight has torch.float32'),
        (torch.zeros(2, 1, 1, 3, 3, device='meta'), 'is on meta but weight is on cpu'),
    ],
)
def test_wrong_gradient_in_backward(grad, message):
    weight, offset = torch.zeros(1, 1, 4, 4), torch.zeros(2, 18)
    with pytest.raises(ValueError, match=f'grad_kernels .*{message}'):
        torch.ops.mmdk.sample_kernel_backward(grad, weight, offset, [3, 3], [True, True])
