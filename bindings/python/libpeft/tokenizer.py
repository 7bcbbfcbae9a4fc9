"""Tokenizers: usable alone, or the one that came with a model."""

import ctypes
import os

import numpy

from . import _abi
from ._base import Handle, as_int_pointer, call, decode, int_array
from ._errors import LimitError, error_for
from ._lib import lib

_SPECIAL = {"bos": 0, "eos": 1, "unk": 2, "pad": 3, "cls": 4, "sep": 5, "mask": 6}


class Tokenizer(Handle):
    """Token ids exactly as the `tokenizers` package gives them for the same file."""

    _destroy = "peft_tokenizer_close"

    def __init__(self, context, path):
        pointer = ctypes.c_void_p()
        call(context, "peft_tokenizer_open", context.handle, os.fsencode(path), ctypes.byref(pointer))
        self._own(pointer.value, context, context)

    @classmethod
    def _borrow(cls, pointer, model):
        self = cls.__new__(cls)
        self._pointer, self._context, self._parents = pointer, model._context, (model,)
        self._finalizer = lambda: None  # the model's own
        return self

    def __len__(self):
        return lib.peft_tokenizer_size(self.handle)

    def special(self, name):
        """Id of "bos", "eos", "unk", "pad", "cls", "sep" or "mask"; None when there is none."""
        found = lib.peft_tokenizer_special(self.handle, _SPECIAL[name])
        return None if found < 0 else found

    def token_to_id(self, token):
        raw = token.encode()
        found = lib.peft_tokenizer_token_to_id(self.handle, raw, len(raw))
        return None if found < 0 else found

    def id_to_token(self, token_id):
        length = ctypes.c_size_t()
        found = lib.peft_tokenizer_id_to_token(self.handle, token_id, ctypes.byref(length))
        return None if not found else ctypes.string_at(found, length.value).decode("utf-8", "replace")

    def encode(self, text, add_special=True, parse_special=False):
        """int32 array of token ids."""
        raw = text.encode()
        flags = (1 if add_special else 0) | (2 if parse_special else 0)
        ids = numpy.empty(len(raw) + 16, numpy.int32)
        count = ctypes.c_int64()
        for _ in range(2):
            try:
                call(self._context, "peft_tokenizer_encode", self.handle, raw, len(raw), flags, as_int_pointer(ids), len(ids), ctypes.byref(count))
                break
            except LimitError:
                ids = numpy.empty(count.value, numpy.int32)
        else:
            raise error_for(-13, "the tokenizer asked for more room twice")
        return ids[: count.value].copy()

    def decode(self, ids, skip_special=False):
        ids = int_array(ids, "ids")
        length = ctypes.c_size_t()
        room = 16 * len(ids) + 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            try:
                call(self._context, "peft_tokenizer_decode", self.handle, as_int_pointer(ids), len(ids), int(skip_special), buffer, room,
                     ctypes.byref(length))
                return buffer.raw[: length.value].decode("utf-8", "replace")
            except LimitError:
                room = length.value + 1
        raise error_for(-13, "the tokenizer asked for more room twice")

    @property
    def chat_template(self):
        found = lib.peft_tokenizer_chat_template(self.handle)
        return None if found is None else decode(found)

    def render_chat(self, messages, format=None, add_generation_prompt=False):
        """Text of a conversation [{"role": ..., "content": ...}] in the model's format."""
        array = (_abi.ChatMessage * max(1, len(messages)))()
        for i, message in enumerate(messages):
            array[i].role, array[i].content = message["role"].encode(), message["content"].encode()
        length, spans = ctypes.c_size_t(), ctypes.c_size_t()
        room = 4096 + sum(len(m["content"].encode()) + 256 for m in messages)
        buffer = ctypes.create_string_buffer(room)
        call(self._context, "peft_chat_render", self.handle, None if format is None else format.encode(), array, len(messages),
             int(add_generation_prompt), buffer, room, ctypes.byref(length), None, 0, ctypes.byref(spans))
        return buffer.raw[: length.value].decode("utf-8", "replace")
