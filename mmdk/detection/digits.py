"""The `digits` detection set: real handwritten digits, warped, on noise, in COCO format.

The digits are the 1,797 8x8 scans that scikit-learn ships, so the set is made offline, in
seconds. Warping is what a detector has to cope with here: the strength of each deformation is an
option of its own.
"""

import dataclasses
import hashlib
import json
import math
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy
import sklearn
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter, shift
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

CLASSES = tuple('0123456789')
SPLITS = ('train', 'val')

Box = tuple[slice, slice]  # rows and columns, pixels

# Grey levels: an image is background + ink + noise, a box is tight around ink >= INK_THRESHOLD.
BACKGROUND = 56
FULL_INK = 150
INK_THRESHOLD = 38

SCAN_INK = 16  # load_digits() holds grey levels from 0 to 16
SCAN_SIZE = 8
INKED_SIZE = SCAN_SIZE + 1  # cells: interpolation smears ink by up to half a cell on each side

BLOTCH_SIGMA = 8  # pixels
PLACEMENT_TRIES = 50

MANIFEST = 'digits.json'
# Raised whenever the same options make other files, so that an old folder is not taken for new.
REVISION = 1


def _option(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={'help': text})


@dataclasses.dataclass(frozen=True)
class DigitsOptions:
    """What to generate. Pairs are ranges (low, high); "up to" goes either way."""

    train_images: int = _option(1200, 'number of training images')
    val_images: int = _option(200, 'number of validation images')
    image_size: int = _option(128, 'height and width of an image, pixels')
    digits: tuple[int, int] = _option(
        (1, 4), 'digits an image; those that find no free place are left out'
    )
    scale: tuple[float, float] = _option((2.0, 7.0), 'pixels per cell of the 8x8 scan')
    aspect: float = _option(1.4, 'up to this ratio of the horizontal and vertical scales')
    rotation: float = _option(30.0, 'up to this angle, degrees')
    shear: float = _option(0.3, 'up to this horizontal shear, pixels per pixel')
    noise: float = _option(20.0, 'standard deviation of pixel noise and of blotches, grey levels')
    val_fraction: float = _option(0.25, 'share of the handwritten digits kept for validation')
    seed: int = _option(0, 'seed of everything random')

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.default)
        _check(self.train_images >= 1, 'train_images', self.train_images, 'at least 1')
        _check(self.val_images >= 1, 'val_images', self.val_images, 'at least 1')
        _check(1 <= self.digits[0] <= self.digits[1], 'digits', self.digits, '1 <= low <= high')
        _check(1 <= self.scale[0] <= self.scale[1], 'scale', self.scale, '1 <= low <= high')
        _check(self.aspect >= 1, 'aspect', self.aspect, 'at least 1, which keeps the aspect')
        _check(0 <= self.rotation <= 180, 'rotation', self.rotation, '0 to 180 degrees')
        _check(self.shear >= 0, 'shear', self.shear, 'at least 0')
        _check(self.noise >= 0, 'noise', self.noise, 'at least 0')
        _check(
            0.05 <= self.val_fraction <= 0.95,
            'val_fraction',
            self.val_fraction,
            '0.05 to 0.95, so that both splits have digits of every class',
        )
        _check(self.seed >= 0, 'seed', self.seed, 'at least 0')
        self._check_largest_digit_fits()

    def _check_largest_digit_fits(self) -> None:
        stretch = np.linalg.norm(warp_matrix(self.scale[1], self.aspect, 0, self.shear), ord=2)
        span = math.ceil(INKED_SIZE * math.sqrt(2) * stretch)
        if span > self.image_size:
            raise ValueError(
                f'image_size={self.image_size} is too small: with scale={self.scale}, '
                f'aspect={self.aspect} and shear={self.shear} a digit can span {span} pixels. '
                'Enlarge the image or weaken the deformation.'
            )


def _check_type(name: str, value: Any, default: Any) -> None:
    if isinstance(default, tuple):
        if not (isinstance(value, tuple) and len(value) == len(default)):
            raise TypeError(f'{name}={value!r} is no range: expected a tuple (low, high).')
        for bound, default_bound in zip(value, default, strict=True):
            _check_type(name, bound, default_bound)
        return
    kind, words = (int, 'an integer') if isinstance(default, int) else ((int, float), 'a number')
    if not isinstance(value, kind):
        raise TypeError(f'{name} got {value!r}, a {type(value).__name__}: expected {words}.')
    _check(math.isfinite(value), name, value, 'a finite number')


def _check(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f'{name}={value!r} is out of range: expected {expected}.')


def make_digits(out: str | Path, options: DigitsOptions) -> bool:
    """Writes the set, unless the folder holds it already.

    The folder appears complete or not at all, whenever the process is interrupted, and several
    processes may make it at a time.

    Args:
        out: Folder to make, with train/, val/, annotations/ and digits.json.
        options: What to generate.

    Returns:
        Whether the set was written; False where it was there.

    Raises:
        FileExistsError: The folder holds something else. It is left as it is.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _check_is_ours(out, options)
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as temporary:
        draft = Path(temporary) / out.name
        _write_set(draft, options)
        try:
            draft.rename(out)
        except OSError:
            if not out.is_dir():
                raise
            _check_is_ours(out, options)  # another process was faster
            return False
    return True


def _check_is_ours(out: Path, options: DigitsOptions) -> None:
    cure = 'Move it away or name another folder; nothing was changed.'
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        found = {'revision': manifest['revision'], **manifest['options']}
        sha256 = manifest['sha256']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileExistsError(f'{out} exists and is no digits set ({error!r}). {cure}') from error
    # Through JSON, which turns tuples into lists, as in the manifest.
    asked = json.loads(json.dumps({'revision': REVISION, **dataclasses.asdict(options)}))
    if found != asked:
        differing = ', '.join(
            f'{name}={found.get(name)!r} instead of {value!r}'
            for name, value in asked.items()
            if found.get(name) != value
        )
        raise FileExistsError(f'{out} holds a digits set with {differing}. {cure}')
    if sha256 != _digest(out):
        raise FileExistsError(f'{out} was changed after it was made. {cure}')


def _digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files but the manifest."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob('*')):
        if path.is_file() and path.name != MANIFEST:
            digest.update(f'{path.relative_to(folder).as_posix()}\0'.encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _write_set(folder: Path, options: DigitsOptions) -> None:
    source = load_digits()
    (folder / 'annotations').mkdir(parents=True)
    for split, members in zip(SPLITS, split_scans(source.target, options), strict=True):
        coco = _write_images(folder / split, split, source, members, options)
        (folder / 'annotations' / f'{split}.json').write_text(json.dumps(coco))
    manifest = {
        'revision': REVISION,
        'options': dataclasses.asdict(options),
        'versions': {
            'python': platform.python_version(),
            **{package.__name__: package.__version__ for package in (np, scipy, sklearn, PIL)},
        },
        'sha256': _digest(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')


def split_scans(labels: np.ndarray, options: DigitsOptions) -> list[np.ndarray]:
    """Parts the handwritten digits, class by class, so that no scan is in both splits.

    Args:
        labels: (N,) class of each scan.
        options: Gives val_fraction and seed.

    Returns:
        Indices of the scans for training and for validation.
    """
    return train_test_split(
        np.arange(len(labels)),
        test_size=options.val_fraction,
        stratify=labels,
        random_state=options.seed,
    )


def _write_images(
    folder: Path, split: str, source: Bunch, members: np.ndarray, options: DigitsOptions
) -> dict:
    folder.mkdir()
    images, annotations = [], []
    for index in range(getattr(options, f'{split}_images')):
        # A stream of its own for each image: image 7 is the same in a set of 10 and of 1,000.
        rng = np.random.default_rng([options.seed, SPLITS.index(split), index])
        pixels, placed = draw_image(rng, source.images, members, options)
        name = f'{index:06d}.png'
        Image.fromarray(pixels).save(folder / name)
        images.append(
            {
                'id': index,
                'file_name': name,
                'height': options.image_size,
                'width': options.image_size,
            }
        )
        for scan, (rows, columns) in placed:
            height, width = rows.stop - rows.start, columns.stop - columns.start
            annotations.append(
                {
                    'id': len(annotations) + 1,  # pycocotools takes 0 for "unmatched"
                    'image_id': index,
                    'category_id': int(source.target[scan]),
                    'bbox': [columns.start, rows.start, width, height],
                    'area': width * height,
                    'iscrowd': 0,
                    'scan': int(scan),
                }
            )
    categories = [{'id': label, 'name': name} for label, name in enumerate(CLASSES)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def draw_image(
    rng: np.random.Generator, scans: np.ndarray, members: np.ndarray, options: DigitsOptions
) -> tuple[np.ndarray, list[tuple[int, Box]]]:
    """Draws one image.

    Args:
        rng: Source of everything random.
        scans: (N, 8, 8) handwritten digits, ink from 0 to 16.
        members: Indices of the scans to choose from.
        options: What to draw.

    Returns:
        The image, (size, size) uint8, and for each digit the index of its scan and its box. The
        boxes do not overlap.
    """
    size = options.image_size
    canvas = np.zeros((size, size), np.uint8)
    taken = np.zeros((size, size), bool)
    placed = []
    for _ in range(rng.integers(*options.digits, endpoint=True)):
        scan = rng.choice(members)
        ink = render_digit(scans[scan], _random_warp(rng, options), size)
        box = tight_box(ink)
        place = _find_place(rng, box, taken)
        if place is None:
            continue
        move = [new.start - old.start for new, old in zip(place, box, strict=True)]
        canvas = np.maximum(canvas, shift(ink, move, order=0))
        taken[place] = True
        placed.append((scan, place))
    pixels = BACKGROUND + canvas + _noise(rng, size, options.noise)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), placed


def _random_warp(rng: np.random.Generator, options: DigitsOptions) -> np.ndarray:
    return warp_matrix(
        scale=rng.uniform(*options.scale),
        aspect=math.exp(rng.uniform(-1, 1) * math.log(options.aspect)),
        rotation=rng.uniform(-1, 1) * options.rotation,
        shear=rng.uniform(-1, 1) * options.shear,
    )


def warp_matrix(scale: float, aspect: float, rotation: float, shear: float) -> np.ndarray:
    """The linear map from the cells of a scan to the pixels of an image.

    Args:
        scale: Pixels per cell, geometric mean of the two axes.
        aspect: Horizontal over vertical scale.
        rotation: Degrees, counter-clockwise on the screen.
        shear: Pixels moved rightwards per pixel downwards, before the rotation.

    Returns:
        (2, 2) float64, acting on (y, x).
    """
    angle = math.radians(rotation)
    rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    slant = np.array([[1, 0], [shear, 1]])
    stretch = np.diag([scale / math.sqrt(aspect), scale * math.sqrt(aspect)])
    return rotate @ slant @ stretch


def render_digit(scan: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Draws one warped digit in the middle of an empty image.

    Args:
        scan: (8, 8) ink, 0 to 16.
        matrix: (2, 2) map from cells to pixels, acting on (y, x).
        size: Height and width of the image, pixels.

    Returns:
        (size, size) uint8, ink in grey levels above the background.
    """
    padded = np.pad(scan, 2)  # cubic splines ring at a hard edge: let the ink fade out
    inverse = np.linalg.inv(matrix)
    middle = np.full(2, (size - 1) / 2)
    offset = (np.array(padded.shape) - 1) / 2 - inverse @ middle
    ink = affine_transform(padded, inverse, offset, output_shape=(size, size), order=3)
    return np.clip(np.rint(ink * (FULL_INK / SCAN_INK)), 0, FULL_INK).astype(np.uint8)


def tight_box(ink: np.ndarray) -> Box:
    """The smallest box that holds all ink >= INK_THRESHOLD.

    Args:
        ink: (H, W) grey levels above the background.

    Returns:
        Rows and columns, pixels.
    """
    inked = ink >= INK_THRESHOLD
    return tuple(
        slice(int(line[0]), int(line[-1]) + 1)
        for line in (np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0)))
    )


def _find_place(rng: np.random.Generator, box: Box, taken: np.ndarray) -> Box | None:
    extent = np.array([side.stop - side.start for side in box])
    for _ in range(PLACEMENT_TRIES):
        corner = rng.integers(0, np.array(taken.shape) - extent, endpoint=True)
        place = tuple(map(slice, corner.tolist(), (corner + extent).tolist()))
        if not taken[place].any():
            return place
    return None


def _noise(rng: np.random.Generator, size: int, strength: float) -> np.ndarray:
    blotches = gaussian_filter(rng.standard_normal((size, size)), BLOTCH_SIGMA, mode='wrap')
    return strength * (rng.standard_normal((size, size)) + blotches / blotches.std())
