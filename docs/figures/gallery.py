"""The detectors that the gallery is of, and the images that they are shown."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from sklearn.datasets import load_sample_images

import mmdk  # noqa: F401  (registers the layers)
from mmdk.analysis import SeenImage, over_the_image, record_kernel_offsets, run_on_image
from mmdk.analysis.command_line import load_detector
from mmdk.analysis.kernel_offsets import LayerOffsets
from mmdk.detection.digits import DigitsOptions, make_digits

ROOT = Path(__file__).resolve().parents[2]
DETECTORS = {
    'plain': 'retinanet_r50-dw-w16_fpn_1e_digits',
    'DCN': 'retinanet_r50-dw-w16-fastdcn-c3-c5-head_fpn_1e_digits',
    'DK': 'retinanet_r50-dw-w16-dk-c3-c5-head_fpn_1e_digits',
}
FOLDER = 'data/digits-96-gallery'
PICTURED = 278  # its index in the validation set
IMAGES_OF_MANY = 50  # the first of the validation set
PHOTOGRAPH = 'china.jpg'
PHOTOGRAPH_SIZE = (192, 128)  # width, height

Points = Sequence[tuple[float, float]]


class Gallery:
    """The detectors, and the images that they are shown."""

    def __init__(self, objects: int) -> None:
        """The data set is made where it is not there yet; `objects` of it have fields measured."""
        self.detectors = {
            name: load_detector(
                str(ROOT / f'configs/digits/{config}.py'), f'mmdk://{config}', 'cpu'
            )
            for name, config in DETECTORS.items()
        }
        config = self.detectors['DK'].cfg
        # The validation set is the same however many images there are to train on.
        make_digits(FOLDER, DigitsOptions(**{**config.digits, 'train_images': 1}))
        config.test_dataloader.dataset.data_root = f'{FOLDER}/'
        self.dataset = DATASETS.build(config.test_dataloader.dataset)
        self.objects = objects

    def digits(self) -> tuple[dict, Points]:
        """An image, and the middles of its digits."""
        data = self.dataset[PICTURED]
        return data, [(y, x) for x, y in data['data_samples'].gt_instances.bboxes.centers.tolist()]

    def photograph(self, like_digits: bool) -> dict:
        """As it is, or with the mean and the standard deviation that pixels of digits have."""
        (path,) = (path for path in load_sample_images().filenames if path.endswith(PHOTOGRAPH))
        image = mmcv.imresize(mmcv.imread(path), PHOTOGRAPH_SIZE)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if like_digits:
            mean, std = self.grey_levels()
            levels = pixels.double()
            pixels = (levels - levels.mean()) / levels.std() * std + mean
            pixels = pixels.round().clamp(0, 255).byte()
        meta = dict(ori_shape=image.shape[:2], img_shape=image.shape[:2], scale_factor=(1.0, 1.0))
        return dict(inputs=pixels, data_samples=DetDataSample(metainfo=meta))

    def grey_levels(self) -> tuple[float, float]:
        """Mean and standard deviation of some images of digits."""
        pixels = torch.stack([self.dataset[index]['inputs'] for index in range(IMAGES_OF_MANY)])
        return pixels.double().mean().item(), pixels.double().std().item()

    def kernel_offsets(self, data: dict) -> tuple[SeenImage, list[LayerOffsets]]:
        """Of the detector with DK; and the image as it saw it."""
        with record_kernel_offsets(self.detectors['DK']) as records:
            image = run_on_image(self.detectors['DK'], data)
        return image, over_the_image(records)
