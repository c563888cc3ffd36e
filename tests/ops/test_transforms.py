"""torch.func: vmap, grad and their compositions, against loops and plain autograd."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from mmdk.layers import DeformKernel2d
from mmdk.ops import deform_kernel2d, sample_kernel
from tests.ops.cases import CASES, DENSE, DEPTHWISE, EVERYTHING

SOME = [
    DENSE,
    DEPTHWISE,
    EVERYTHING,
    *(c for c in CASES if c.name in ('rigid', 'dcnv2', 'global', 'global_groups_dcn', 'batch_0')),
]
SHARED = {
    'nothing': (),
    'parameters': ('weight', 'bias'),
    'input': ('input',),
    'offsets': ('kernel_offset', 'image_offset', 'mask'),
    'all_but_bias': ('input', 'weight', 'kernel_offset', 'image_offset', 'mask'),
}
MAPPED = [
    pytest.param(case, names, id=f'{case.name}-{what}')
    for case in SOME
    for what, names in SHARED.items()
    if not set(case.tensors()) <= set(names)
]
# Convolutions of other shapes sum in another order.
CLOSE = {'rtol': 1e-11, 'atol': 1e-11}

has_rule = pytest.mark.skipif(
    not hasattr(torch.library, 'register_vmap'), reason='PyTorch has no register_vmap'
)


def entries(case, shared, size=3):
    """Arguments with an added axis, last for the input and first for others, and those shared."""
    tensors = [case.tensors(seed=seed) for seed in range(size)]
    batched = {name: torch.stack([t[name] for t in tensors]) for name in tensors[0]}
    dims = {name: None if name in shared else 0 for name in batched}
    arguments = {n: t[0] if n in shared else t for n, t in batched.items()}
    if dims['input'] is not None:
        arguments['input'], dims['input'] = arguments['input'].movedim(0, -1), -1
    return arguments, dims


def one(arguments, dims, index):
    return {n: t if dims[n] is None else t.select(dims[n], index) for n, t in arguments.items()}


@pytest.mark.parametrize('case, shared', MAPPED)
def test_vmap(case, shared):
    arguments, dims = entries(case, shared)

    def call(tensors):
        return deform_kernel2d(**tensors, **case.geometry)

    output = vmap(call, (dims,))(arguments)
    expected = [call(one(arguments, dims, i)) for i in range(3)]
    torch.testing.assert_close(output, torch.stack(expected), **CLOSE)


@pytest.mark.parametrize('case, shared', MAPPED)
def test_vmap_of_every_gradient(case, shared):
    arguments, dims = entries(case, shared)

    def gradients(tensors):
        return grad(lambda t: deform_kernel2d(**t, **case.geometry).square().sum())(tensors)

    results = vmap(gradients, (dims,))(arguments)
    for i in range(3):
        for name, expected in gradients(one(arguments, dims, i)).items():
            torch.testing.assert_close(results[name][i], expected, **CLOSE)


@has_rule
def test_vmap_is_no_loop():
    calls = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    arguments, dims = entries(DENSE, ())
    with Count():
        vmap(lambda t: deform_kernel2d(**t, **DENSE.geometry), (dims,))(arguments)
    assert calls.count(torch.ops.mmdk.deform_kernel2d.default) == 1


@has_rule
def test_vmap_of_no_entries():
    x = torch.zeros(0, 2, 4, 7, 8, requires_grad=True)
    weight = torch.randn(6, 4, 4, 4)
    output = vmap(lambda x: deform_kernel2d(x, weight, kernel_size=3))(x)
    assert output.shape == (0, 2, 6, 5, 6)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.filterwarnings('ignore:There is a performance drop')
def test_vmap_of_sample_kernel():
    weights = torch.randn(3, 2, 4, 4, 4, dtype=torch.float64)
    offsets = torch.randn(3, 5, 18, dtype=torch.float64)
    kernels = vmap(lambda w, o: sample_kernel(w, o, 3))(weights, offsets)
    for weight, offset, expected in zip(weights, offsets, kernels, strict=True):
        assert torch.equal(sample_kernel(weight, offset, 3), expected)


def test_grad_equals_autograd():
    tensors = EVERYTHING.tensors()
    gradients = grad(lambda t: deform_kernel2d(**t, **EVERYTHING.geometry).square().sum())(tensors)
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    deform_kernel2d(**leaves, **EVERYTHING.geometry).square().sum().backward()
    for name, leaf in leaves.items():
        assert torch.equal(gradients[name], leaf.grad), name


def test_grad_of_vmap():
    arguments, dims = entries(DENSE, ('weight',))

    def loss(weight):
        mapped = vmap(lambda t: deform_kernel2d(**t, **DENSE.geometry), (dims,))
        return mapped({**arguments, 'weight': weight}).square().sum()

    def looped(weight):
        each = (one({**arguments, 'weight': weight}, dims, i) for i in range(3))
        return sum(deform_kernel2d(**t, **DENSE.geometry).square().sum() for t in each)

    weight = arguments['weight']
    torch.testing.assert_close(grad(loss)(weight), grad(looped)(weight), rtol=1e-11, atol=1e-9)


def test_gradients_of_single_samples_of_a_layer():
    layer = DeformKernel2d(4, 6, 3, padding=1).double()
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    images = torch.randn(3, 4, 6, 7, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, image):
        return functional_call(layer, parameters, (image[None],)).square().mean()

    results = vmap(grad(loss), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        expected = torch.autograd.grad(layer(image[None]).square().mean(), list(layer.parameters()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(results[name][i], gradient, **CLOSE)


def test_ensemble_of_layers():
    layers = [DeformKernel2d(4, 6, 3).double() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    outputs = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
    expected = torch.stack([layer(x) for layer in layers])
    torch.testing.assert_close(outputs, expected, **CLOSE)


def test_jacobian():
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)

    def function(w):
        return deform_kernel2d(x, w, kernel_size=3)

    # The output is linear in the weight, and its coefficients are the image.
    jacobian = jacrev(function)(weight)[0, :, 0, 0]
    assert torch.equal(jacobian[0, 0, 0], x[0, 0]) and torch.equal(jacobian[1, 1, 0], x[0, 0])
    assert not jacobian[0, 1].any() and not jacobian[1, 0].any()


def forward_of(function, tensor):
    with forward_ad.dual_level():
        return function(forward_ad.make_dual(tensor, torch.ones_like(tensor)))


@pytest.mark.parametrize('name', DENSE.tensors())
@pytest.mark.parametrize(
    'derivative',
    [lambda f, t: jvp(f, (t,), (t,)), lambda f, t: jacfwd(f)(t), forward_of],
    ids=['jvp', 'jacfwd', 'forward_ad'],
)
def test_forward_mode_is_refused(name, derivative):
    tensors = DENSE.tensors()

    def function(tensor):
        return deform_kernel2d(**{**tensors, name: tensor}, **DENSE.geometry)

    with pytest.raises(NotImplementedError, match='deform_kernel2d: forward-mode .* use reverse'):
        derivative(function, tensors[name])


def test_forward_mode_of_sample_kernel_is_refused():
    weight, offset = torch.randn(1, 1, 4, 4), torch.zeros(1, 18)
    with pytest.raises(NotImplementedError, match='sample_kernel: forward-mode'):
        jvp(lambda w: sample_kernel(w, offset, 3), (weight,), (weight,))


def test_second_derivative_is_refused():
    tensors = DENSE.tensors()

    def loss(weight):
        return deform_kernel2d(**{**tensors, 'weight': weight}, **DENSE.geometry).square().sum()

    with pytest.raises(NotImplementedError, match='second derivatives'):
        grad(lambda w: grad(loss)(w).sum())(tensors['weight'])
