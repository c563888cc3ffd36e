"""What every detector with deformable layers has to come through, from config to checkpoint."""

from pathlib import Path

import torch
from mmcv.cnn import is_norm
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint, save_checkpoint
from torch import Tensor, nn

from mmdk.layers.conv_base import ConvBase
from tests.detection import stock
from tests.layers.family import is_at_rest

# Pixels, of square images.
SIZE = 64
# Labels that every model knows; where one has fewer classes, its own number counts.
CLASSES = 10
# Of the 85 tokens that such an image has.
QUERIES = 20
# A thousand, as configs have, take most of the time of a model with a small image.
PROPOSALS = 50
# Of the learning rate, in a first step: with random weights gradients may be of any size, and
# offsets, which are zero, move at any rate.
WARM_UP = 1e-6


def walk(config: Config, tmp_path: Path) -> dict[str, ConvBase]:
    """Build, initialise, train a step, predict, save, reload.

    Args:
        config: A whole config, its pretrained weights dropped.
        tmp_path: Where a checkpoint may be written.

    Returns:
        The deformable layers, by name.
    """
    fit_small_images(config.model)
    model = stock.build(config)
    model.init_weights()
    layers = deformable(model)
    moved = [name for name, layer in layers.items() if not is_at_rest(layer)]
    assert not moved, f'not at rest after init_weights(): {moved}'

    wake(model)
    train_a_step(model, config.optim_wrapper, images(config, batch=2))
    learning = {name: layer for name, layer in layers.items() if layer.weight.requires_grad}
    still = [name for name, layer in learning.items() if is_at_rest(layer)]
    assert not still, f'a step of training does not move {still}'

    predicted = predict(model, images(config, batch=1))
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'model.pth'))
    reloaded = stock.build(config)
    load_checkpoint(reloaded, str(tmp_path / 'model.pth'), strict=True, logger='silent')
    assert_same(predict(reloaded, images(config, batch=1)), predicted)
    return layers


def fit_small_images(model: dict) -> None:
    """Choose fewer queries and proposals; do not pad to the size of large images."""
    if model.get('as_two_stage'):
        model.num_queries = QUERIES
    for rpn in (*values(model, 'rpn_proposal'), *values(model, 'rpn')):
        if rpn and 'max_per_img' in rpn:
            rpn.max_per_img = PROPOSALS
    preprocessor = model.data_preprocessor
    preprocessor.batch_augments = [
        augment
        for augment in preprocessor.get('batch_augments') or []
        if augment['type'] != 'BatchFixedSizePad'
    ]


def deformable(model: nn.Module) -> dict[str, ConvBase]:
    return {name: part for name, part in model.named_modules() if isinstance(part, ConvBase)}


def images(config: Config, batch: int) -> dict:
    """Noise, with the annotations that the config's pipeline loads."""
    pipeline = config.train_dataloader
    panoptic = 'LoadPanopticAnnotations' in values(pipeline, 'type')
    return demo_mm_inputs(
        batch,
        (3, SIZE, SIZE),
        num_items=[3] * batch,
        num_classes=min([CLASSES, *values(config.model, 'num_classes')]),
        with_mask=panoptic or any(values(pipeline, 'with_mask')),
        with_semantic=panoptic or any(values(pipeline, 'with_seg')),
    )


def values(node, key: str) -> list:
    """All values of a key, anywhere in a config."""
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return []
    here = [node[key]] if key in node else []
    return here + [value for child in node.values() for value in values(child, key)]


def wake(model: nn.Module) -> None:
    """Let residual branches that start as zero pass gradients on, as pretrained ones do."""
    for part in model.modules():
        if is_norm(part) and part.weight is not None and not part.weight.any():
            nn.init.constant_(part.weight, 0.2)


def train_a_step(model: nn.Module, optim_wrapper: dict, data: dict) -> None:
    """One of the config's own optimizer; loss and gradients have to be finite."""
    # Heads and preprocessors ask the runner how far it is.
    for key, value in dict(iter=0, max_iters=1, epoch=0, max_epochs=1).items():
        MessageHub.get_current_instance().update_info(key, value)
    wrapper = build_optim_wrapper(model, optim_wrapper)
    for group in wrapper.param_groups:
        group['lr'] *= WARM_UP
    broken = []

    def check(*_):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                broken.append(name)

    wrapper.optimizer.register_step_pre_hook(check)
    losses = model.train().train_step(data, wrapper)
    assert losses['loss'].isfinite(), losses
    assert not broken, f'gradients are not finite: {broken}'


@torch.no_grad()
def predict(model: nn.Module, data: dict) -> list[Tensor]:
    """The sum of what each layer with parameters computes, and the predictions.

    An untrained model may find nothing, so that predictions alone would show little.
    """
    sums = []

    def add(layer, inputs, output):
        if isinstance(output, Tensor):
            sums.append(output.double().sum())

    handles = [part.register_forward_hook(add) for part in model.modules() if part._parameters]
    samples = model.eval().test_step(data)
    for handle in handles:
        handle.remove()
    return [*sums, *(value for sample in samples for value in _predicted(sample.to_dict()))]


def _predicted(sample: dict) -> list[Tensor]:
    parts = [part for name, part in sample.items() if name.startswith('pred_')]
    return [value for part in parts for value in part.values() if isinstance(value, Tensor)]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for left, right in zip(actual, expected, strict=True):
        assert left.isfinite().all() and torch.equal(left, right)
