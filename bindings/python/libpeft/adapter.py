"""Adapters: what is trained."""

import ctypes
import json
import os

import numpy

from . import _abi
from ._base import Handle, as_float_pointer, call, decode, float_array, new_struct
from ._errors import ArgumentError
from ._lib import lib


class Adapter(Handle):
    """A new adapter from HF PEFT's configuration keys: Adapter(context, model, peft_type="LORA", r=8, target_modules=["q_proj"])."""

    _destroy = "peft_adapter_destroy"

    def __init__(self, context, model, config=None, seed=0, **keys):
        config = {**(config or {}), **keys}
        pointer = ctypes.c_void_p()
        call(context, "peft_adapter_create", context.handle, model.handle, json.dumps(config).encode(), seed, ctypes.byref(pointer))
        self._own(pointer.value, context, context, model)

    @classmethod
    def load(cls, context, model, folder):
        """Reads an HF PEFT folder, strictly."""
        self = cls.__new__(cls)
        pointer = ctypes.c_void_p()
        call(context, "peft_adapter_load", context.handle, model.handle, os.fsencode(folder), ctypes.byref(pointer))
        self._own(pointer.value, context, context, model)
        return self

    @classmethod
    def combine(cls, context, model, adapters, weights, method="cat", rank=0, density=0.5, majority="total", seed=0):
        """One LoRA adapter from several: "cat" (exact), "svd" (cut to rank), or, as HF PEFT names and computes them, "linear", "ties",
        "dare_linear", "dare_ties", "magnitude_prune" and these with "_svd" behind."""
        if len(adapters) != len(weights):
            raise ArgumentError(f"combine: {len(adapters)} adapters, {len(weights)} weights")
        handles = (ctypes.c_void_p * max(1, len(adapters)))(*[a.handle for a in adapters])
        factors = (ctypes.c_float * max(1, len(weights)))(*weights)
        if majority not in ("total", "frequency"):
            raise ArgumentError(f"combine: majority {majority!r}, expected 'total' or 'frequency'")
        options = new_struct(_abi.CombineOptions, "peft_combine_options_init_sized", rank=rank, density=density,
                             majority=int(majority == "frequency"), seed=seed)
        self = cls.__new__(cls)
        pointer = ctypes.c_void_p()
        call(context, "peft_adapter_combine", context.handle, model.handle, handles, factors, len(adapters), method.encode(),
             ctypes.byref(options), ctypes.byref(pointer))
        self._own(pointer.value, context, context, model)
        return self

    @classmethod
    def import_gguf(cls, context, model, path):
        """Reads a LoRA adapter of llama.cpp."""
        self = cls.__new__(cls)
        pointer = ctypes.c_void_p()
        call(context, "peft_adapter_import_gguf", context.handle, model.handle, os.fsencode(path), ctypes.byref(pointer))
        self._own(pointer.value, context, context, model)
        return self

    def export_gguf(self, path):
        """Writes a LoRA adapter for llama.cpp."""
        call(self._context, "peft_adapter_export_gguf", self.handle, os.fsencode(path))

    def verify(self, path):
        """Reads back what save (a folder) or export_gguf (a file) wrote: (largest difference of logits, largest logit)."""
        found = new_struct(_abi.Difference)
        call(self._context, "peft_adapter_verify", self.handle, os.fsencode(path), ctypes.byref(found))
        return found.largest, found.magnitude

    def save(self, folder):
        call(self._context, "peft_adapter_save", self.handle, os.fsencode(folder))

    @property
    def config(self):
        return json.loads(decode(lib.peft_adapter_config(self.handle)))

    @property
    def report(self):
        return decode(lib.peft_adapter_report(self.handle))

    @property
    def top_layers(self):
        """Layers that are trained, counted from the top; the others rest. -1: everything."""
        return lib.peft_adapter_top_layers(self.handle)

    @top_layers.setter
    def top_layers(self, layers):
        call(self._context, "peft_adapter_set_top_layers", self.handle, layers)

    @property
    def parameter_count(self):
        return lib.peft_adapter_parameter_count(self.handle)

    def tensors(self):
        """Name -> copy of the values."""
        result = {}
        for index in range(lib.peft_adapter_tensor_count(self.handle)):
            info = new_struct(_abi.TensorInfo)
            call(self._context, "peft_adapter_tensor", self.handle, index, ctypes.byref(info))
            shape = tuple(info.shape[i] for i in range(info.ndim))
            count = int(numpy.prod(shape, dtype=numpy.int64))
            view = numpy.ctypeslib.as_array(ctypes.cast(info.data, ctypes.POINTER(ctypes.c_float)), (count,))
            result[decode(info.name)] = view.reshape(shape).copy()
        return result

    def set_tensor(self, name, values):
        values = float_array(values, name)
        call(self._context, "peft_adapter_set_tensor", self.handle, name.encode(), as_float_pointer(values), values.size)

    @property
    def parameters(self):
        """All trained values as one flat float32 array (a copy); assign to it to change them."""
        values = numpy.empty(self.parameter_count, numpy.float32)
        call(self._context, "peft_adapter_get_parameters", self.handle, as_float_pointer(values), values.size)
        return values

    @parameters.setter
    def parameters(self, values):
        values = float_array(values, "parameters")
        if values.ndim != 1:
            raise ArgumentError(f"parameters: expected one dimension, found {values.ndim}")
        call(self._context, "peft_adapter_set_parameters", self.handle, as_float_pointer(values), values.size)

    def set_scale(self, scale):
        """A factor on the adapter's effect: 1 as trained, 0 off."""
        call(self._context, "peft_adapter_set_scale", self.handle, scale)
