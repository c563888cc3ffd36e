"""What kernel offsets do while networks train: how far taps move, how many leave, what learns.

Of some trainings of the study, seed 0 of each, at every 25th step of a classifier's and every 50th
of a detector's, by stage: how long offsets are and which share of taps is outside its scope, as
OffsetHook has them, and how long the gradient of what predicts offsets is, as a share of that of
the layers' weights.

    python -m benchmarks.study.offsets
"""

import collections
import importlib
import itertools
import tempfile

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from benchmarks.report import of_cells
from benchmarks.study.plan import TASKS
from benchmarks.study.runs import Results, Run, results_of
from benchmarks.study.tables import Rows
from benchmarks.study.variants import VARIANTS
from mmdk.hooks import OffsetHook

__all__ = ['SCALARS', 'WATCHED', 'current', 'table']

# By task, of its first network.
WATCHED = {
    'classification': ('DK', 'DK, offsets learn as fast'),
    'detection': ('DK', 'DK, taps kept in the scope'),
}
INTERVAL = {'classification': 25, 'detection': 50}  # steps
# Of MMEngine's records, and what the documents call them.
SCALARS = {
    'mean_abs': 'length of offsets, scope cells',
    'outside': 'share of taps outside the scope',
    'gradient': 'gradient of offsets / of weights',
}
SHARES = ('outside',)  # in percent
LAST = 5  # records that the table is a mean of


def main() -> None:
    torch.set_num_threads(1)
    # One folder for all: MMEngine's visualizer goes on writing to the first runner's.
    with tempfile.TemporaryDirectory() as work_dir:
        for task, variants in WATCHED.items():
            there = [row['variant'] for row in current(task)]
            for run in (Run(task, TASKS[task][0], variant, 0) for variant in variants):
                if run.variant not in there:
                    print(run, flush=True)
                    curves = train(run, work_dir)
                    kept(task).add(run, {'interval': INTERVAL[task], 'curves': curves})


def kept(task: str) -> Results:
    return results_of(task, f'offsets_{task}')


def current(task: str) -> Rows:
    """A task's results of today's settings and interval, in the order of `WATCHED`."""
    network = TASKS[task][0]
    rows = {
        row['variant']: row
        for row in kept(task).current()
        if row['network'] == network and row['interval'] == INTERVAL[task]
    }
    return [rows[variant] for variant in WATCHED[task] if variant in rows]


def train(run: Run, work_dir: str) -> dict[str, dict[str, dict[int, float]]]:
    """Values by scalar, stage and step."""
    module = importlib.import_module(f'benchmarks.study.{run.task}')
    runner = module.prepare(run.network, VARIANTS[run.variant], run.seed, work_dir)
    curves = Curves(INTERVAL[run.task])
    runner.register_hook(OffsetHook(curves.interval, by='stage'))
    runner.register_hook(GradientHook(curves.interval))
    runner.register_hook(curves, priority='VERY_LOW')
    runner.train()
    return curves.found


class GradientHook(Hook):
    """Logs the norm of the gradient of what predicts offsets, over that of the layers' weights.

    By stage, as OffsetHook does: `kernel_offset/<stage>/gradient`. Gradients are those before any
    clipping.
    """

    def __init__(self, interval: int):
        self.interval = interval
        self._is_recorded = False
        self._stages: list[str] = []
        self._squares: dict[tuple[str, str], float] = collections.defaultdict(float)

    def before_train(self, runner: Runner) -> None:
        for name, layer in runner.model.named_modules():
            if hasattr(layer, 'conv_offset'):
                stage = '.'.join(name.split('.')[:2])
                if stage not in self._stages:
                    self._stages.append(stage)
                self._watch(layer.weight, stage, 'weight')
                for parameter in layer.conv_offset.parameters():
                    self._watch(parameter, stage, 'offset')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._is_recorded = self.every_n_train_iters(runner, self.interval)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        for stage in self._stages if self._is_recorded else ():
            share = self._squares[stage, 'offset'] / self._squares[stage, 'weight']
            runner.message_hub.update_scalar(f'train/kernel_offset/{stage}/gradient', share**0.5)
        self._squares.clear()

    def _watch(self, parameter: nn.Parameter, stage: str, part: str) -> None:
        def record(parameter: Tensor) -> None:
            if self._is_recorded:
                self._squares[stage, part] += parameter.grad.square().sum().item()

        # The optimizer's wrapper takes gradients away before hooks are called.
        parameter.register_post_accumulate_grad_hook(record)


class Curves(Hook):
    """Keeps what the other two record."""

    def __init__(self, interval: int):
        self.interval = interval
        self.found = {scalar: collections.defaultdict(dict) for scalar in SCALARS}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        for key, buffer in runner.message_hub.log_scalars.items():
            prefix, _, rest = key.partition('train/kernel_offset/')
            stage, _, scalar = rest.rpartition('/')
            if not prefix and scalar in SCALARS:
                self.found[scalar][stage][runner.iter + 1] = buffer.current()


def table(task: str) -> str:
    """The first record of each stage, and the mean of the last ones, in Markdown."""
    rows = current(task)
    cells = {
        f'{row["variant"]}: {stage}': [
            _start_and_end(row['curves'][scalar][stage], scalar in SHARES) for scalar in SCALARS
        ]
        for row, stage in itertools.chain.from_iterable(
            ((row, stage) for stage in row['curves']['mean_abs']) for row in rows
        )
    }
    return of_cells(TASKS[task][0], list(SCALARS.values()), cells) if cells else ''


def _start_and_end(values: dict[str, float], is_share: bool) -> str:
    first, *_ = recorded = list(values.values())
    last = recorded[-LAST:]
    start, end = (
        f'{100 * value:.1f} %' if is_share else f'{value:.2g}'
        for value in (first, sum(last) / len(last))
    )
    return f'{start} → {end}'


if __name__ == '__main__':
    main()
