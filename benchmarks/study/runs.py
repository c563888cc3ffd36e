"""Training runs whose results are kept: what is there is not trained again."""

import contextlib
import fcntl
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import this_machine
from benchmarks.report import RESULTS
from benchmarks.study.variants import VARIANTS

__all__ = ['Results', 'Run', 'carry_out', 'results_of']


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        task: The module of this package that trains it, 'detection' or 'classification'.
        network: One of the module's networks.
        variant: A key of `VARIANTS`.
        seed: Of initial weights and of the order of images.
    """

    task: str
    network: str
    variant: str
    seed: int

    def __str__(self) -> str:
        return f'{self.task}, {self.network}, {self.variant}, seed {self.seed}'


class Results:
    """The JSON file of one task.

    A result is that of a run only while the variant's settings and the network's, which are in the
    file too, are what they were.

    Args:
        path: The file.
        settings: Of each network's trainings.
    """

    def __init__(self, path: Path, settings: dict[str, dict]):
        self.path = path
        # As the file has them: it makes lists of tuples.
        self.settings = json.loads(json.dumps(settings))

    @property
    def rows(self) -> list[dict]:
        """All that is in the file now; several processes may add to it."""
        return json.loads(self.path.read_text())['rows'] if self.path.exists() else []

    def __contains__(self, run: Run) -> bool:
        return any(row.items() >= self._key(run).items() for row in self.rows)

    def current(self) -> list[dict]:
        """The rows of today's variants and settings."""
        return [
            row
            for row in self.rows
            if row['variant'] in VARIANTS
            and row['settings'] == self._settings(row['network'], row['variant'])
        ]

    def add(self, run: Run, measured: dict) -> None:
        """Keep one result, in place of an earlier one; the file is whole at any time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        key = self._key(run)
        with _locked(self.path.parent):
            rows = [row for row in self.rows if not row.items() >= key.items()]
            rows.append({**key, **measured, 'machine': this_machine(1)})
            rows.sort(key=lambda row: (row['network'], row['variant'], row['seed']))
            draft = self.path.with_suffix('.tmp')
            draft.write_text(json.dumps({'rows': rows}, indent=1) + '\n')
            draft.replace(self.path)

    def _key(self, run: Run) -> dict:
        return {
            'network': run.network,
            'variant': run.variant,
            'seed': run.seed,
            'settings': self._settings(run.network, run.variant),
        }

    def _settings(self, network: str, variant: str) -> dict:
        return {**self.settings[network], **VARIANTS[variant].settings()}


def results_of(task: str, name: str | None = None) -> Results:
    """What is kept of a task, in a file of this name or of the task's."""
    settings = importlib.import_module(f'benchmarks.study.{task}').SETTINGS
    return Results(RESULTS / f'study_{name or task}.json', settings)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Among all processes and threads that ask for it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def carry_out(runs: Iterable[Run], results: Results, jobs: int) -> None:
    """Train what has no result yet, `jobs` at a time, each in a process with one thread.

    Raises:
        subprocess.CalledProcessError: A run failed. No other is begun then; those that have begun
            are finished and kept, as they are if this is interrupted.
    """
    missing = [run for run in runs if run not in results]
    done, start, stopped = itertools.count(1), time.monotonic(), threading.Event()

    def train(run: Run) -> None:
        if stopped.is_set() or run in results:  # of another process, meanwhile
            return
        try:
            results.add(run, _in_process(run))
        except BaseException:
            stopped.set()
            raise
        count = next(done)
        left = (time.monotonic() - start) / count * (len(missing) - count) / 60
        print(f'{count}/{len(missing)}, {left:.0f} minutes left: {run}', flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(train, run) for run in missing]):
                future.result()
        finally:
            stopped.set()


def _in_process(run: Run) -> dict:
    command = [sys.executable, '-W', 'ignore', '-m', f'benchmarks.study.{run.task}']
    arguments = [run.network, run.variant, str(run.seed)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    process = subprocess.run(
        command + arguments, capture_output=True, text=True, env=environment, check=False
    )
    if process.returncode:
        if process.returncode != -signal.SIGINT:  # of which the user knows
            sys.stderr.write(process.stderr)
        process.check_returncode()
    return json.loads(process.stdout.splitlines()[-1])
