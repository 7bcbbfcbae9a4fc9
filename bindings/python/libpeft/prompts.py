"""Hard prompts and in-context learning: classifying labelled rows without any training."""

import ctypes
import os

import numpy

from . import _abi
from ._base import Handle, call, decode, new_struct
from ._lib import lib

KINDS = ("answers", "cloze", "reasoning")


class Prompts(Handle):
    """A prompt file (docs/prompts.md). `changes` are other values for its keys, for all prompts: Prompts(context, "prompts.yaml", shots=4,
    **{"data.test": "rows.csv"})."""

    _destroy = "peft_prompts_destroy"

    def __init__(self, context, path, **changes):
        words = [f"{key}={self._written(value)}".encode() for key, value in changes.items()]
        texts = (ctypes.c_char_p * max(len(words), 1))(*words)
        pointer = ctypes.c_void_p()
        call(context, "peft_prompts_open", context.handle, os.fsencode(path), texts, len(words), ctypes.byref(pointer))
        self._own(pointer.value, context, context)

    @staticmethod
    def _written(value):
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(str(one) for one in value) + "]"
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)

    def __len__(self):
        return lib.peft_prompts_count(self.handle)

    def __getitem__(self, index):
        """What prompt `index` is: name, kind, shots, seeds, calibrated."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        info = new_struct(_abi.PromptInfo)
        call(self._context, "peft_prompts_get_info", self.handle, index, ctypes.byref(info))
        return {"name": decode(info.name), "kind": KINDS[info.kind], "shots": info.shots, "seeds": info.seed_count, "calibrated": bool(info.calibrated)}

    @property
    def label_names(self):
        return [decode(lib.peft_prompts_class_name(self.handle, i)) for i in range(lib.peft_prompts_class_count(self.handle))]

    def render(self, model, index, row=0, seed=0):
        """What a model reads for a row of the test data, without any answer."""
        pointer = ctypes.c_void_p()
        call(self._context, "peft_prompts_render", self.handle, model.handle, index, seed, row, ctypes.byref(pointer))
        try:
            return ctypes.string_at(pointer.value).decode("utf-8", "replace")
        finally:
            lib.peft_text_free(self._context.handle, pointer)

    def run(self, session, index, seed=0, **options):
        """Classifies every row of the test data with one prompt and the shots of its seed number `seed`. Gives a dictionary: accuracy and macro_f1 with
        their intervals, labels, predictions (-1: no answer found), scores [rows, classes], texts, times and tokens as in include/peft/prompts.h."""
        struct = new_struct(_abi.PromptRunOptions, "peft_prompt_run_options_init_sized", **options)
        pointer = ctypes.c_void_p()
        call(self._context, "peft_prompts_run", self.handle, session.handle, index, seed, ctypes.byref(struct), ctypes.byref(pointer))
        try:
            found = new_struct(_abi.PromptScores)
            call(self._context, "peft_prompt_result_get", pointer, ctypes.byref(found))
            result = {name: getattr(found, name) for name, *_ in found._fields_ if name not in ("struct_size", "labels", "predictions", "scores",
                                                                                                "lines", "texts")}
            for name in ("labels", "predictions", "lines"):
                result[name] = numpy.array(getattr(found, name)[:found.count])
            result["scores"] = numpy.array(found.scores[:found.count * found.classes]).reshape(found.count, found.classes) if found.scores else None
            result["texts"] = [decode(text) for text in found.texts[:found.count]] if found.texts else None
            return result
        finally:
            lib.peft_prompt_result_destroy(pointer)
