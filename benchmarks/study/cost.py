"""What the compared variants cost: parameters, FLOPs, and time and memory of a training step.

A FLOP is a multiply-add of a convolution or a deformable kernel, as in configs/; they are those of
one image, forward. A training step is the study's own, on its first batch and with its optimizer;
offsets start at zero, as they do in training. Memory is what the process grows by during a step,
after a first one; benchmarks/peak.py says how it is counted.

    python -m benchmarks.study.cost
"""

import functools
import importlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Measurement, Ratio, run, time_pairs
from benchmarks.peak import in_fresh_process, peak_growth
from benchmarks.study.classification import SIZE
from benchmarks.study.detection import DIGITS
from benchmarks.study.plan import PLAIN, TASKS
from benchmarks.study.variants import COMPARED, VARIANTS

__all__ = ['FLOPS', 'TIME', 'title']

# Channels, height and width.
IMAGES = {
    'classification': (1, SIZE, SIZE),
    'detection': (3, DIGITS.image_size, DIGITS.image_size),
}
FLOPS = 'million FLOPs'
TIME = 'time / plain'


def title(task: str, network: str) -> str:
    """What a network's table is called."""
    return f'{task}, {network}'


def measurements() -> Iterator[Measurement]:
    columns = {
        'thousand parameters': count_parameters,
        FLOPS: count_flops,
        TIME: compare_time,
        'peak memory / plain': compare_memory,
    }
    for task, networks in TASKS.items():
        for network in networks:
            for variant in COMPARED:
                for column, measure in columns.items():
                    yield Measurement(
                        title(task, network),
                        variant,
                        column,
                        partial(measure, task, network, variant),
                    )


def count_parameters(task: str, network: str, variant: str, pairs: int) -> Ratio:
    model = prepared(task, network, variant).model
    return Ratio(sum(parameter.numel() for parameter in model.parameters()) / 1e3)


@torch.no_grad()
def count_flops(task: str, network: str, variant: str, pairs: int) -> Ratio:
    model = prepared(task, network, variant).model.eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *IMAGES[task]), None, mode='tensor')
    # PyTorch counts a multiply-add as two.
    return Ratio(counter.get_total_flops() / 2 / 1e6)


def compare_time(task: str, network: str, variant: str, pairs: int) -> Ratio:
    if variant == PLAIN:
        return Ratio(1)
    ours, plain = (training_step(task, network, each) for each in (variant, PLAIN))
    return time_pairs(ours, plain, pairs)


def compare_memory(task: str, network: str, variant: str, pairs: int) -> Ratio:
    """Of one step each: memory is counted, not timed."""
    return Ratio(memory(task, network, variant) / memory(task, network, PLAIN))


@functools.cache
def memory(task: str, network: str, variant: str) -> int:
    return in_fresh_process(growth, task, network, variant)


def growth(task: str, network: str, variant: str) -> int:
    step = training_step(task, network, variant)
    step()  # makes the optimizer's state, which stays
    return peak_growth(step)[0]


def training_step(task: str, network: str, variant: str) -> Callable:
    """A call that trains the model by one step on the same batch every time."""
    runner = prepared(task, network, variant)
    batch = next(iter(runner.train_dataloader))
    optimizer = runner.build_optim_wrapper(runner.optim_wrapper)
    return partial(runner.model.train().train_step, batch, optimizer)


@functools.lru_cache(maxsize=2)  # a network, and the plain one that it is compared with
def prepared(task: str, network: str, variant: str) -> Runner:
    module = importlib.import_module(f'benchmarks.study.{task}')
    # Neither what is lifted nor what the runner has to say of tensors is news here.
    MMLogger.get_instance('study_cost').setLevel('ERROR')
    runner = module.prepare(network, VARIANTS[variant], 0, work_dir().name)
    runner.logger.setLevel('ERROR')
    return runner


@functools.cache
def work_dir() -> tempfile.TemporaryDirectory:
    """One for all runners: MMEngine's visualizer goes on writing to the first one's."""
    return tempfile.TemporaryDirectory()


if __name__ == '__main__':
    run(__doc__, measurements(), pairs=5, threads=1)
