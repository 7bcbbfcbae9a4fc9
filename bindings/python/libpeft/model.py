"""Models: read-only weights and their names."""

import ctypes
import json
import os

from . import _abi
from ._base import Handle, call, decode, new_struct
from ._lib import lib
from .tokenizer import Tokenizer

TASKS = ("auto", "CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "MASKED_LM", "FEATURE_EXTRACTION", "IMAGE_CLS", "MULTIPLE_CHOICE")
PROBLEMS = (None, "single_label_classification", "multi_label_classification", "regression")
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}


class Model(Handle):
    """A pretrained model from a Hugging Face folder or a .gguf file. Immutable; weights stay mapped in the file's type. `label_names` name the classes
    of a new head; `problem_type` is config.json's."""

    _destroy = "peft_model_destroy"

    def __init__(self, context, path, task="auto", num_labels=0, validate=False, problem_type=None, label_names=None):
        names = list(label_names or [])
        options = new_struct(_abi.ModelOptions, "peft_model_options_init_sized", task=TASKS.index(task), num_labels=num_labels, validate=int(validate),
                             problem_type=PROBLEMS.index(problem_type))
        if names:
            options.label_names = (ctypes.c_char_p * len(names))(*[str(n).encode() for n in names])
            options.label_name_count = len(names)
        pointer = ctypes.c_void_p()
        call(context, "peft_model_load", context.handle, os.fsencode(path), ctypes.byref(options), ctypes.byref(pointer))
        self._own(pointer.value, context, context)

    @classmethod
    def _adopt(cls, pointer, context, *parents):
        self = cls.__new__(cls)
        self._own(pointer, context, context, *parents)
        return self

    @property
    def info(self):
        """Sizes and names as a dictionary."""
        info = new_struct(_abi.ModelInfo)
        call(self._context, "peft_model_get_info", self.handle, ctypes.byref(info))
        result = {name: getattr(info, name) for name, *_ in info._fields_ if name != "struct_size"}
        return {name: decode(value) if isinstance(value, bytes) else value for name, value in result.items()}

    @property
    def image_info(self):
        """Vision models: the pictures and patches that it reads, as a dictionary."""
        info = new_struct(_abi.ImageInfo)
        call(self._context, "peft_model_image_info", self._context.handle, self.handle, ctypes.byref(info))
        return {name: getattr(info, name) for name, *_ in info._fields_ if name != "struct_size"}

    @property
    def config(self):
        """The configuration in Hugging Face's spelling."""
        return json.loads(decode(lib.peft_model_config(self.handle)))

    @property
    def load_report(self):
        return decode(lib.peft_model_load_report(self.handle))

    def modules(self):
        """The named modules that target_modules can mean: a list of dictionaries."""
        result = []
        for index in range(lib.peft_model_module_count(self.handle)):
            info = new_struct(_abi.ModuleInfo)
            call(self._context, "peft_model_module", self.handle, index, ctypes.byref(info))
            result.append({"name": decode(info.name), "kind": info.kind, "in_features": info.in_features, "out_features": info.out_features,
                           "layer": info.layer, "dtype": decode(lib.peft_dtype_name(info.dtype)), "has_bias": bool(info.has_bias),
                           "is_new": bool(info.is_new)})
        return result

    @property
    def tokenizer(self):
        """The tokenizer that came with the model, or None."""
        found = lib.peft_model_tokenizer(self.handle)
        return None if not found else Tokenizer._borrow(found, self)

    def merge(self, adapters):
        """A new model with the adapters' changes in its weights; this one is untouched."""
        array = (ctypes.c_void_p * max(1, len(adapters)))(*[a.handle for a in adapters])
        pointer = ctypes.c_void_p()
        call(self._context, "peft_model_merge", self._context.handle, self.handle, array, len(adapters), ctypes.byref(pointer))
        return Model._adopt(pointer.value, self._context, self)

    def save_merged(self, adapters, path, dtype="float32"):
        """Merges straight into a Hugging Face folder, or a GGUF file where path ends in .gguf, without a merged model in memory."""
        array = (ctypes.c_void_p * max(1, len(adapters)))(*[a.handle for a in adapters])
        call(self._context, "peft_model_save_merged", self._context.handle, self.handle, array, len(adapters), os.fsencode(path), DTYPES[dtype])

    def verify(self, path, adapters=()):
        """Reads a saved model back: (largest difference of logits, largest logit) against this one with adapters."""
        array = (ctypes.c_void_p * max(1, len(adapters)))(*[a.handle for a in adapters])
        found = new_struct(_abi.Difference)
        call(self._context, "peft_model_verify", self._context.handle, self.handle, array, len(adapters), os.fsencode(path), ctypes.byref(found))
        return found.largest, found.magnitude

    def save_gguf(self, path):
        """Writes a model read from GGUF, merged or not, as a GGUF file of the same types."""
        call(self._context, "peft_model_save_gguf", self._context.handle, self.handle, os.fsencode(path))

    def save(self, folder, dtype="float32"):
        """Writes a Hugging Face folder."""
        call(self._context, "peft_model_save", self._context.handle, self.handle, os.fsencode(folder), DTYPES[dtype])
