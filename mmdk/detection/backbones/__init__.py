"""Backbones, registered with MMDetection."""

from mmdk.detection.backbones.resnet_dw import ResNetDW

__all__ = ['ResNetDW']
