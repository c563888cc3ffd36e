"""What is trained, what is kept of it, and by which command."""

import dataclasses
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from mmdet.registry import MODELS

from benchmarks.study import __main__ as command
from benchmarks.study import classification, detection, runs
from benchmarks.study.plan import TASKS
from benchmarks.study.runs import Results, Run, carry_out, results_of
from benchmarks.study.variants import COMPARED, VARIANTS

RUN = Run('classification', 'R18-DW', 'DK', 0)
OTHER = dataclasses.replace(RUN, seed=1)
SETTINGS = {RUN.network: dict(epochs=8)}


class TestResults:
    def test_are_kept_and_found_again(self, tmp_path):
        path = tmp_path / 'results.json'
        Results(path, SETTINGS).add(RUN, dict(accuracy=0.5))
        again = Results(path, SETTINGS)
        assert RUN in again and OTHER not in again
        assert json.loads(path.read_text())['rows'][0]['accuracy'] == 0.5

    @pytest.mark.parametrize('task', TASKS)
    def test_of_a_task_are_found_again(self, monkeypatch, tmp_path, task):
        monkeypatch.setattr(runs, 'RESULTS', tmp_path)
        for network in TASKS[task]:
            run = Run(task, network, 'DK', 0)
            results_of(task).add(run, {})
            assert run in results_of(task)

    def test_of_other_settings_do_not_count(self, tmp_path, monkeypatch):
        path = tmp_path / 'results.json'
        Results(path, SETTINGS).add(RUN, dict(accuracy=0.5))
        assert RUN not in Results(path, {RUN.network: dict(epochs=9)})
        slower = dataclasses.replace(VARIANTS['DK'], offset_lr=0.5)
        monkeypatch.setitem(VARIANTS, 'DK', slower)
        assert RUN not in Results(path, SETTINGS)

    def test_only_what_is_missing_is_trained(self, tmp_path, monkeypatch):
        trained = []
        monkeypatch.setattr(runs, '_in_process', lambda run: trained.append(run) or {})
        results = Results(tmp_path / 'results.json', SETTINGS)
        results.add(RUN, {})
        carry_out([RUN, OTHER], results, jobs=2)
        assert trained == [OTHER] and OTHER in results

    def test_a_failure_keeps_those_that_have_begun_and_begins_no_other(self, tmp_path, monkeypatch):
        begun, failed = threading.Event(), threading.Event()
        trained = []

        def train(run):
            trained.append(run)
            if run == RUN:
                assert begun.wait(10)
                failed.set()
                raise RuntimeError('diverged')
            begun.set()
            assert failed.wait(10)
            time.sleep(0.2)  # so that the failure is noticed
            return {}

        monkeypatch.setattr(runs, '_in_process', train)
        results = Results(tmp_path / 'results.json', SETTINGS)
        others = [dataclasses.replace(RUN, seed=seed) for seed in range(1, 6)]
        with pytest.raises(RuntimeError, match='diverged'):
            carry_out([RUN, *others], results, jobs=2)
        assert set(trained) == {RUN, OTHER}
        assert OTHER in results and RUN not in results

    def test_adding_waits_for_other_processes_and_keeps_theirs(self, tmp_path):
        path = tmp_path / 'results.json'
        results = Results(path, SETTINGS)
        results.add(OTHER, {})
        adding = threading.Thread(target=results.add, args=(RUN, {}))
        folder = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
        adding.start()
        adding.join(0.3)
        assert adding.is_alive() and RUN not in results
        os.close(folder)
        adding.join(10)
        assert RUN in results and OTHER in results

    def test_of_a_run_there_is_one(self, tmp_path):
        results = Results(tmp_path / 'results.json', SETTINGS)
        for accuracy in (0.5, 0.6):
            results.add(RUN, dict(accuracy=accuracy))
        assert [row['accuracy'] for row in results.rows] == [0.6]

    def test_say_which_machine_trained_them(self, tmp_path):
        results = Results(tmp_path / 'results.json', SETTINGS)
        results.add(RUN, {})
        assert results.rows[0]['machine']['torch'] == torch.__version__


class TestCommand:
    @pytest.fixture
    def study(self, monkeypatch, tmp_path):
        """Runs the command; every training gives what the function given does."""

        def study(train, *arguments):
            monkeypatch.setattr(runs, 'RESULTS', tmp_path)
            monkeypatch.setattr(runs, '_in_process', train)
            monkeypatch.setattr(sys, 'argv', ['study', *map(str, arguments)])
            command.main()

        return study

    def test_trains_what_it_is_asked_for_seed_by_seed(self, study, capsys):
        trained = []
        asked = ('--task', 'detection', '--network', 'R50', '--part', 'compared', '--seeds', 2)
        study(lambda run: trained.append(run) or {}, *asked, '--jobs', 1)
        assert trained == [
            Run('detection', 'R50', variant, seed) for seed in (0, 1) for variant in COMPARED
        ]
        assert '16/16, 0 minutes left: detection, R50, DK+DCN, seed 1' in capsys.readouterr().out

    @pytest.mark.parametrize(
        'error, message',
        [
            (KeyboardInterrupt(), 'Interrupted; the same command goes on'),
            (subprocess.CalledProcessError(1, 'train'), 'a training failed; its own message is'),
        ],
    )
    def test_ends_with_a_message(self, study, error, message):
        def train(run):
            raise error

        with pytest.raises(SystemExit, match=message):
            study(train, '--task', 'detection', '--seeds', 1, '--jobs', 1)


RECIPES = {
    ('classification', 'R18-DW', 1): 'c22f7f6ebea0ed87',
    ('classification', 'MobileNetV2', 1): '121abe3b7bd61298',
    ('detection', 'R50-DW', 2): 'b8ede56190faf770',
    ('detection', 'R50', 2): 'fe7a7440878fe0f5',
}


@pytest.mark.parametrize('task, network', [(task, each) for task in TASKS for each in TASKS[task]])
def test_results_of_other_recipes_have_another_revision(task, network, tmp_path):
    """Schedules and networks are not all in the settings, by which results are found again."""
    recipe, module = {
        'classification': (classifier_recipe, classification),
        'detection': (detector_recipe, detection),
    }[task]
    recipes = [recipe(network, VARIANTS[name], tmp_path) for name in ('plain', 'plain, wider')]
    digest = hashlib.sha256(json.dumps(recipes, sort_keys=True).encode()).hexdigest()[:16]
    assert RECIPES[task, network, module.SETTINGS[network]['revision']] == digest


def classifier_recipe(network, variant, folder):
    runner = classification.prepare(network, variant, 0, str(folder))
    return [runner.optim_wrapper, runner.param_schedulers, shapes(runner.model)]


def detector_recipe(network, variant, folder):
    config = detection.make_config(network, variant, 0, str(folder))
    model = MODELS.build(config.model)
    learning = [config[name] for name in ('optim_wrapper', 'param_scheduler', 'train_cfg')]
    return [*learning, config.train_dataloader.batch_size, shapes(model)]


def shapes(model):
    return {name: list(weight.shape) for name, weight in model.state_dict().items()}
