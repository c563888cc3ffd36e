"""Testing a model on a set that is not its config's."""

import torch
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner

__all__ = ['evaluate']


@torch.no_grad()
def evaluate(model: BaseModel, loader: dict, metric: dict) -> dict[str, float]:
    """What a metric says of a model.

    Args:
        model: It is left in evaluation mode.
        loader: MMEngine's config of the data loader.
        metric: That of the metric.
    """
    model.eval()
    loader = Runner.build_dataloader(loader)
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
    for batch in loader:
        evaluator.process(model.test_step(batch), batch)
    return evaluator.evaluate(len(loader.dataset))
