"""Every layer under torch.compile and torch.export, its options and sizes included."""

import pytest
import torch
from torch import nn

from mmdk.layers import DeformKernel2d
from tests.layers.family import CLASSES, generator

exports_dynamic_shapes = pytest.mark.skipif(
    not hasattr(torch.export, 'Dim'), reason='this PyTorch exports no shapes that vary'
)

LAYERS = {
    'dense': lambda: DeformKernel2d(6, 4, 3, padding=1),
    'depthwise': lambda: DeformKernel2d(6, 6, 3, padding=1, groups=6, bias=False),
    'grouped': lambda: DeformKernel2d(6, 4, 3, stride=(2, 1), groups=2, offset_groups=3),
    'dilated': lambda: DeformKernel2d(6, 4, (3, 2), dilation=(2, 3), scope_size=(3, 5)),
    'pointwise': lambda: DeformKernel2d(6, 4, 1),
    'same': lambda: DeformKernel2d(6, 4, 3, padding='same'),
    'clip': lambda: DeformKernel2d(6, 4, 3, padding=1, offset_clip=0.4),
    'clip_scope': lambda: DeformKernel2d(
        6, 4, (3, 2), padding=1, offset_groups=2, offset_clip='scope'
    ),
    'reflect': lambda: DeformKernel2d(6, 4, 3, padding=1, padding_mode='reflect'),
    'replicate': lambda: DeformKernel2d(6, 4, 3, padding=2, padding_mode='replicate'),
    'circular': lambda: DeformKernel2d(6, 4, 3, padding=1, padding_mode='circular'),
    'global': lambda: CLASSES['GlobalDK'](6, 4, 3, padding=1, offset_groups=2),
    'global_clip_scope': lambda: CLASSES['GlobalDK'](6, 4, 1, offset_clip='scope'),
    'both': lambda: CLASSES['DKDCN'](6, 4, 3, padding=1, offset_clip='scope'),
    'both_modulated': lambda: CLASSES['DKDCN'](
        6, 6, 3, groups=6, image_offset_groups=3, modulated=True
    ),
    'dcn': lambda: CLASSES['FastDCN'](6, 4, 3, padding=1, padding_mode='reflect'),
    'dcn_modulated': lambda: CLASSES['FastDCN'](6, 4, 3, deform_groups=2, modulated=True),
    'experts': lambda: CLASSES['CondConv'](6, 4, 3, padding=1, num_experts=3),
    'experts_grouped': lambda: CLASSES['CondConv'](6, 4, (1, 3), groups=2, bias=False),
}
SIZES = [(2, 6, 9, 11), (3, 6, 12, 7), (4, 6, 10, 13)]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def learnt(name):
    """A layer in double precision whose generator moves."""
    layer = LAYERS[name]().double()
    nn.init.normal_(generator(layer).weight, std=0.2)
    return layer


def results(function, layer, x):
    x = x.clone().requires_grad_()
    output = function(x)
    leaves = [x, *layer.parameters()]
    return [output, *torch.autograd.grad(output.square().sum(), leaves)]


def check_compiled(name, backend, sizes):
    layer = learnt(name)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for size in sizes:
        x = torch.randn(size, dtype=torch.float64)
        for ours, expected in zip(
            results(compiled, layer, x), results(layer, layer, x), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('name', LAYERS)
def test_compiles_whole_once_for_all_sizes(name):
    # Capturing the graph and its gradient is what a layer takes part in; generating code is not.
    torch._dynamo.utils.counters.clear()
    check_compiled(name, 'aot_eager', SIZES)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1


@pytest.mark.slow
def test_generated_code():
    # Inductor compiles anew for other sizes, as it does for nn.Conv2d.
    check_compiled('clip_scope', 'inductor', SIZES[:2])


@exports_dynamic_shapes
@pytest.mark.parametrize('name', LAYERS)
def test_exports_with_dynamic_batch_and_size(name):
    layer = learnt(name).eval()
    # From 6 on no output is 1 wide, for which torch.export makes a program of its own.
    dim = torch.export.Dim
    dynamic = {0: dim('batch'), 2: dim('height', min=6), 3: dim('width', min=6)}
    program = torch.export.export(
        layer, (torch.randn(SIZES[0], dtype=torch.float64),), dynamic_shapes=(dynamic,)
    )
    operators = [node.target for node in program.graph.nodes if node.op == 'call_function']
    own = torch.ops.mmdk.deform_kernel2d.default
    assert operators.count(own) == (0 if name.startswith('experts') else 1)
    exported = program.module()
    for size in [*SIZES, (1, 6, 6, 7)]:
        x = torch.randn(size, dtype=torch.float64)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-11, atol=1e-11)


@exports_dynamic_shapes
def test_exported_program_survives_a_file(tmp_path):
    layer = learnt('clip_scope').eval()
    x = torch.randn(SIZES[0], dtype=torch.float64)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / 'layer.pt2')
    loaded = torch.export.load(tmp_path / 'layer.pt2').module()
    torch.testing.assert_close(loaded(x), layer(x), rtol=1e-11, atol=1e-11)
