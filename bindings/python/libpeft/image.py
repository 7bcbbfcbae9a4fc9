"""Pictures: what a vision model reads, from files, arrays and PIL images. Folders of pictures and IDX files are data sets (Dataset)."""

import ctypes
import os

import numpy

from . import _abi
from ._base import Handle, as_float_pointer, call, float_array, int_array, new_struct
from ._errors import LimitError
from .dataset import Batch


def _augment(flip, random_resized_crop, seed, scale, ratio):
    return new_struct(_abi.ImageAugment, "peft_image_augment_init_sized", flip=flip, random_resized_crop=int(random_resized_crop), seed=seed,
                      min_scale=scale[0], max_scale=scale[1], min_ratio=ratio[0], max_ratio=ratio[1])


class ImageProcessor(Handle):
    """Resizes, crops, scales and normalises pictures as the model's preprocessor_config.json says, or as `config`, the text of one."""

    _destroy = "peft_image_processor_destroy"

    def __init__(self, context, model, config=None):
        pointer = ctypes.c_void_p()
        call(context, "peft_image_processor_create", context.handle, model.handle, None if config is None else config.encode(), ctypes.byref(pointer))
        self._own(pointer.value, context, context)
        self._channels = model.image_info["channels"]
        self._floats = 3 * 224 * 224

    def __call__(self, picture, flip=0.0, random_resized_crop=False, seed=0, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
        """[channels, height, width] float32. `picture`: a path, the bytes of a PNG, JPEG, PPM or PGM file, an array of bytes [height, width] or
        [height, width, 1 or 3], or a PIL image. `flip` is a chance; with random_resized_crop a piece of the given share and shape fills the result."""
        augment = _augment(flip, random_resized_crop, seed, scale, ratio)
        name = None
        if isinstance(picture, (str, os.PathLike)):
            name = os.fsencode(picture)
            with open(picture, "rb") as file:
                picture = file.read()
        if isinstance(picture, (bytes, bytearray, memoryview)):
            data = bytes(picture)
            return self._run("peft_image_process", (name, data, len(data)), augment)
        if hasattr(picture, "convert"):
            picture = picture.convert("RGB")
        pixels = numpy.asarray(picture)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.dtype != numpy.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise TypeError(f"picture: expected uint8 [height, width, 1 or 3], found {pixels.dtype} {list(pixels.shape)}")
        pixels = numpy.ascontiguousarray(pixels)
        pointer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return self._run("peft_image_process_pixels", (pointer, *pixels.shape), augment)

    def _run(self, function, arguments, augment):
        height, width = ctypes.c_int64(), ctypes.c_int64()
        while True:
            out = numpy.empty(self._floats, numpy.float32)
            try:
                call(self._context, function, self.handle, *arguments, ctypes.byref(augment), as_float_pointer(out), out.size, ctypes.byref(height),
                     ctypes.byref(width))
            except LimitError:
                wanted = self._channels * height.value * width.value
                if wanted <= self._floats:
                    raise
                self._floats = wanted  # too little room: the sizes were written
                continue
            return out[: self._channels * height.value * width.value].reshape(self._channels, height.value, width.value)


class ImageBatch(Batch):
    """A batch of prepared pictures: float32 arrays [channels, height, width], of one size or several; classes may be given."""

    def __init__(self, context, model, pictures, labels=None):
        self.struct = new_struct(_abi.Batch, "peft_batch_init_sized")
        self._arrays = []
        info = new_struct(_abi.ImageInfo)
        call(context, "peft_model_image_info", context.handle, model.handle, ctypes.byref(info))
        cols = info.channels * info.patch_height * info.patch_width
        rows, grids = [], []
        for picture in pictures:
            picture = float_array(picture, "pictures")
            if picture.ndim != 3 or picture.shape[0] != info.channels:
                raise ValueError(f"pictures: expected [{info.channels}, height, width], found {list(picture.shape)}")
            grid = numpy.zeros(2, numpy.int32)
            out = numpy.empty((picture.shape[1] // info.patch_height) * (picture.shape[2] // info.patch_width) * cols, numpy.float32)
            call(context, "peft_image_patches", context.handle, ctypes.byref(info), as_float_pointer(picture), 1, picture.shape[1], picture.shape[2],
                 as_float_pointer(out), out.size)
            grid[:] = picture.shape[1] // info.patch_height, picture.shape[2] // info.patch_width
            rows.append(out.reshape(-1, cols))
            grids.append(grid)
        lengths = [len(r) for r in rows]
        offsets = numpy.zeros(len(rows) + 1, numpy.int32)
        numpy.cumsum(lengths, out=offsets[1:])
        self.struct.rows, self.struct.sequences, self.struct.feature_cols = int(offsets[-1]), len(rows), cols
        self._put("offsets", offsets)
        self._put("features", numpy.concatenate(rows) if rows else numpy.empty((0, cols), numpy.float32))
        self._put("image_grids", int_array(numpy.concatenate(grids) if grids else [], "grids"))
        if labels is not None:
            self._put("sequence_labels", self._each(labels, rows, "labels"))
