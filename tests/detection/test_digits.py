import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mmdk.detection import digits
from mmdk.detection.digits import DigitsOptions, make_digits

COMMAND = Path(__file__).parents[2] / 'tools/make_digits.py'
SMALL = DigitsOptions(train_images=12, val_images=6)
# One digit an image, not deformed: what the strength of each deformation is measured against.
RIGID = DigitsOptions(
    train_images=40,
    val_images=1,
    digits=(1, 1),
    scale=(4, 4),
    aspect=1,
    rotation=0,
    shear=0,
    noise=0,
)


def annotations_of(folder, split='train'):
    return json.loads((folder / f'annotations/{split}.json').read_text())


def pixels_of(folder, split='train'):
    """Images by id."""
    return {
        image['id']: np.asarray(Image.open(folder / split / image['file_name'])).astype(int)
        for image in annotations_of(folder, split)['images']
    }


def extents(folder):
    """(N, 2) width and height of the boxes."""
    return np.array([box['bbox'][2:] for box in annotations_of(folder)['annotations']])


@pytest.fixture(scope='module')
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp('noisy') / 'digits'
    make_digits(folder, SMALL)
    return folder


@pytest.fixture(scope='module')
def noise_free(tmp_path_factory):
    folder = tmp_path_factory.mktemp('noise_free') / 'digits'
    make_digits(folder, dataclasses.replace(SMALL, noise=0))
    return folder


@pytest.fixture(scope='module')
def rigid(tmp_path_factory):
    folder = tmp_path_factory.mktemp('rigid') / 'digits'
    make_digits(folder, RIGID)
    return folder


class TestBoxes:
    @pytest.mark.parametrize('split', digits.SPLITS)
    def test_tight_around_the_ink_in_the_files(self, noise_free, split):
        boxes = annotations_of(noise_free, split)['annotations']
        for image_id, pixels in pixels_of(noise_free, split).items():
            inked = pixels - digits.BACKGROUND >= digits.INK_THRESHOLD
            unboxed = inked.copy()
            for box in boxes:
                if box['image_id'] == image_id:
                    x, y, width, height = box['bbox']
                    inside = inked[y : y + height, x : x + width]
                    assert inside.shape == (height, width)
                    edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
                    assert all(edge.any() for edge in edges), box
                    unboxed[y : y + height, x : x + width] = False
            assert not unboxed.any(), f'image {image_id} has ink outside its boxes'

    def test_noise_does_not_move_them(self, noisy, noise_free):
        assert annotations_of(noisy) == annotations_of(noise_free)

    def test_do_not_overlap(self, noisy):
        covered = np.zeros((SMALL.train_images, SMALL.image_size, SMALL.image_size), int)
        for box in annotations_of(noisy)['annotations']:
            x, y, width, height = box['bbox']
            covered[box['image_id'], y : y + height, x : x + width] += 1
        assert covered.max() == 1

    def test_have_the_class_of_their_scan(self, noisy):
        labels = load_digits().target
        for split in digits.SPLITS:
            coco = annotations_of(noisy, split)
            names = {category['id']: category['name'] for category in coco['categories']}
            for box in coco['annotations']:
                assert names[box['category_id']] == str(labels[box['scan']])

    def test_mmdetection_reads_the_same(self, noisy):
        from mmdet.datasets import CocoDataset

        dataset = CocoDataset(
            data_root=str(noisy),
            ann_file='annotations/train.json',
            data_prefix={'img': 'train/'},
            metainfo={'classes': digits.CLASSES},
        )
        assert len(dataset) == SMALL.train_images
        read = [
            (sample['img_id'], instance['bbox_label'], *instance['bbox'])
            for sample in map(dataset.get_data_info, range(len(dataset)))
            for instance in sample['instances']
        ]
        written = [
            (box['image_id'], box['category_id'], x, y, x + width, y + height)
            for box in annotations_of(noisy)['annotations']
            for x, y, width, height in [box['bbox']]
        ]
        assert read == written


class TestSplits:
    def test_share_no_scan_and_use_all(self):
        labels = load_digits().target
        train, val = digits.split_scans(labels, SMALL)
        assert sorted([*train, *val]) == list(range(len(labels)))
        shares = np.bincount(labels[val]) / np.bincount(labels)
        assert np.allclose(shares, SMALL.val_fraction, atol=0.01)

    def test_images_keep_to_their_split(self, tmp_path):
        folder = tmp_path / 'digits'
        make_digits(folder, dataclasses.replace(SMALL, train_images=100, val_images=100))
        used = [
            {box['scan'] for box in annotations_of(folder, split)['annotations']}
            for split in digits.SPLITS
        ]
        assert min(map(len, used)) > 100
        assert used[0].isdisjoint(used[1])


class TestReproducibility:
    def run(self, out, *args, hash_seed='0'):
        subprocess.run(
            [
                sys.executable,
                COMMAND,
                '--out',
                out,
                '--train-images',
                '5',
                '--val-images',
                '3',
                *args,
            ],
            check=True,
            env={**os.environ, 'PYTHONHASHSEED': hash_seed},
        )
        return {
            path.relative_to(out): path.read_bytes() for path in out.rglob('*') if path.is_file()
        }

    def test_two_processes_write_the_same_bytes(self, tmp_path):
        first = self.run(tmp_path / 'a', hash_seed='1')
        assert len(first) == 5 + 3 + 3
        assert first == self.run(tmp_path / 'b', hash_seed='2')

    def test_seed_changes_images_and_split(self, noisy, tmp_path):
        other = tmp_path / 'digits'
        make_digits(other, dataclasses.replace(SMALL, seed=1))
        assert annotations_of(other) != annotations_of(noisy)
        labels = load_digits().target
        assert not np.array_equal(
            digits.split_scans(labels, SMALL)[1],
            digits.split_scans(labels, DigitsOptions(seed=1))[1],
        )

    def test_image_does_not_depend_on_the_number_of_images(self, noisy, tmp_path):
        fewer = tmp_path / 'digits'
        make_digits(fewer, dataclasses.replace(SMALL, train_images=3))
        for image_id, pixels in pixels_of(fewer).items():
            assert np.array_equal(pixels, pixels_of(noisy)[image_id])


class TestOptions:
    @pytest.fixture
    def make(self, tmp_path):
        def make(**changes):
            folder = tmp_path / 'digits'
            make_digits(folder, dataclasses.replace(RIGID, **changes))
            return folder

        return make

    def test_scale(self, make, rigid):
        ratios = extents(make(scale=(2, 7))) / extents(rigid)
        assert ratios.min() < 0.7 and ratios.max() > 1.4
        # The ink's outer fringe does not grow with it exactly.
        assert 2 / 4 - 0.1 < ratios.min() and ratios.max() < 7 / 4 + 0.1

    def test_aspect(self, make, rigid):
        ratios = extents(make(aspect=1.5)) / extents(rigid)
        aspects = ratios[:, 0] / ratios[:, 1]
        assert 1 / 1.7 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.7

    @pytest.mark.parametrize('change', [{'rotation': 90}, {'shear': 1}])
    def test_rotation_and_shear(self, make, rigid, change):
        ratios = extents(make(image_size=160, **change)) / extents(rigid)
        assert ratios[:, 0].std() > 0.1

    def test_noise(self, make, rigid):
        noise = pixels_of(make(noise=10))[0] - pixels_of(rigid)[0]
        # Pixel noise and blotches, each of 10 grey levels.
        assert 12 < noise.std() < 16

    def test_digits(self, make):
        boxes = annotations_of(make(digits=(2, 3)))['annotations']
        counts = np.bincount([box['image_id'] for box in boxes])
        assert set(counts) == {2, 3}

    def test_image_size_and_number(self, make):
        pixels = pixels_of(make(image_size=96, train_images=2))
        assert [image.shape for image in pixels.values()] == [(96, 96)] * 2

    def test_digits_without_a_free_place_are_left_out(self, make):
        boxes = annotations_of(make(digits=(60, 60), train_images=2))['annotations']
        assert 2 < len(boxes) < 120


class TestWarp:
    def box_of(self, scan, **warp):
        matrix = digits.warp_matrix(**{'scale': 5, 'aspect': 1, 'rotation': 0, 'shear': 0, **warp})
        rows, columns = digits.tight_box(digits.render_digit(scan, matrix, 128))
        return rows.start, rows.stop, columns.start, columns.stop

    @pytest.fixture
    def block(self):
        return np.full((8, 8), 16.0)

    def test_scale_and_aspect_stretch_about_the_middle(self, block):
        top, bottom, left, right = self.box_of(block, aspect=4)
        assert (top + bottom, left + right) == (128, 128)
        # Height 8 cells at 5 / 2 pixels, width 8 at 5 * 2, and less than a cell of fringe.
        assert 20 <= bottom - top <= 23 and 80 <= right - left <= 90

    def test_rotation_is_counter_clockwise(self):
        right_half = np.zeros((8, 8))
        right_half[:, 4:] = 16
        top, bottom, left, right = self.box_of(right_half, rotation=90)
        assert bottom <= 66 and abs(left + right - 128) <= 2

    def test_shear_moves_the_lower_rows_rightwards(self):
        bottom_row = np.zeros((8, 8))
        bottom_row[-1] = 16
        *_, left, right = self.box_of(bottom_row)
        *_, sheared_left, sheared_right = self.box_of(bottom_row, shear=0.5)
        # The row lies 3.5 cells of 5 pixels below the middle.
        assert abs(sheared_left - left - 0.5 * 3.5 * 5) < 2
        assert abs(sheared_right - right - 0.5 * 3.5 * 5) < 2


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        ({'train_images': 0}, ValueError, 'train_images=0 .* at least 1'),
        ({'val_images': 2.5}, TypeError, 'val_images got 2.5, a float: expected an integer'),
        ({'digits': (3, 2)}, ValueError, r'digits=\(3, 2\) .* low <= high'),
        ({'digits': 3}, TypeError, r'digits=3 .* tuple \(low, high\)'),
        ({'digits': (1, 2.5)}, TypeError, 'digits got 2.5'),
        ({'scale': (0.1, 2.0)}, ValueError, r'scale=\(0.1, 2.0\)'),
        (
            {'scale': (2.0, 20.0)},
            ValueError,
            r'image_size=128 is too small: with scale=\(2.0, 20.0\)',
        ),
        ({'image_size': 64}, ValueError, 'image_size=64 is too small'),
        ({'aspect': 0.5}, ValueError, 'aspect=0.5 .* at least 1'),
        ({'rotation': -1}, ValueError, 'rotation=-1 .* 0 to 180'),
        ({'shear': float('nan')}, ValueError, 'shear=nan .* finite'),
        ({'noise': -1.0}, ValueError, 'noise=-1.0'),
        ({'val_fraction': 1.0}, ValueError, 'val_fraction=1.0'),
        ({'seed': -1}, ValueError, 'seed=-1'),
        ({'seed': '0'}, TypeError, "seed got '0', a str"),
    ],
)
def test_bad_options(change, error, message):
    with pytest.raises(error, match=message):
        DigitsOptions(**change)


@pytest.mark.parametrize('aspect', [1.0, 1.4, 2.0])
@pytest.mark.parametrize('shear', [0.0, 0.3])
def test_smallest_image_allowed_holds_the_largest_digit(aspect, shear):
    size = smallest_image_allowed(scale=(7.0, 7.0), aspect=aspect, shear=shear)
    solid = np.full((8, 8), 16.0)
    for rotation in range(0, 180, 5):
        for stretch, slant in itertools.product((aspect, 1 / aspect), (shear, -shear)):
            matrix = digits.warp_matrix(7, stretch, rotation, slant)
            rows, columns = digits.tight_box(digits.render_digit(solid, matrix, size))
            assert min(rows.start, columns.start) > 0
            assert max(rows.stop, columns.stop) < size


def smallest_image_allowed(**options):
    for size in itertools.count(1):
        with contextlib.suppress(ValueError):
            return DigitsOptions(image_size=size, **options).image_size


class TestFolder:
    def test_is_left_alone_when_it_holds_what_is_asked(self, noisy):
        before = {path: path.stat().st_mtime_ns for path in noisy.rglob('*')}
        assert make_digits(noisy, SMALL) is False
        assert before == {path: path.stat().st_mtime_ns for path in noisy.rglob('*')}

    def test_is_refused_when_it_holds_other_options(self, noisy):
        with pytest.raises(FileExistsError, match=r'seed=0 instead of 5.*nothing was changed'):
            make_digits(noisy, dataclasses.replace(SMALL, seed=5))

    def test_is_refused_when_it_holds_something_else(self, tmp_path):
        (tmp_path / 'thesis.tex').write_text('42')
        with pytest.raises(FileExistsError, match='is no digits set'):
            make_digits(tmp_path, SMALL)
        assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']

    def test_is_refused_when_it_is_a_file(self, tmp_path):
        (tmp_path / 'digits').write_text('42')
        with pytest.raises(FileExistsError, match='is no digits set'):
            make_digits(tmp_path / 'digits', SMALL)

    @pytest.mark.parametrize(
        'damage',
        [
            lambda folder: (folder / 'train/000003.png').unlink(),
            lambda folder: (folder / 'annotations/val.json').write_text('{}'),
        ],
    )
    def test_is_refused_when_it_was_changed(self, tmp_path, damage):
        folder = tmp_path / 'digits'
        make_digits(folder, SMALL)
        damage(folder)
        with pytest.raises(FileExistsError, match='changed after it was made'):
            make_digits(folder, SMALL)

    def test_may_be_empty(self, tmp_path):
        assert make_digits(tmp_path, SMALL) is True
        assert (tmp_path / digits.MANIFEST).exists()

    def test_may_be_made_by_another_process_meanwhile(self, tmp_path, monkeypatch):
        write = digits._write_set

        def write_slowly(draft, asked):
            monkeypatch.setattr(digits, '_write_set', write)
            make_digits(tmp_path / 'set', SMALL)
            write(draft, asked)

        monkeypatch.setattr(digits, '_write_set', write_slowly)
        assert make_digits(tmp_path / 'set', SMALL) is False
        assert [path.name for path in tmp_path.iterdir()] == ['set']

    def test_does_not_appear_when_interrupted(self, tmp_path, monkeypatch):
        def interrupt(*args):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(digits, '_digest', interrupt)
            make_digits(tmp_path / 'digits', SMALL)
        assert list(tmp_path.iterdir()) == []
        assert make_digits(tmp_path / 'digits', SMALL) is True

    def test_error_of_the_command_is_one_line(self, tmp_path):
        (tmp_path / 'thesis.tex').write_text('42')
        ran = subprocess.run(
            [sys.executable, COMMAND, '--out', tmp_path], capture_output=True, text=True
        )
        assert ran.returncode == 1
        assert ran.stderr.startswith('make_digits: ') and ran.stderr.count('\n') == 1
