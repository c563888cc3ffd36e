"""Hooks for MMEngine's Runner, by name in a config's `custom_hooks`."""

from mmdk.hooks.kernel_picture_hook import KernelPictureHook
from mmdk.hooks.offset_hook import OffsetHook

__all__ = ['KernelPictureHook', 'OffsetHook']
