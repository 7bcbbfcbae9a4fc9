"""Batches and data sets."""

import ctypes
import os

import numpy

from . import _abi
from ._base import Handle, as_float_pointer, as_int_pointer, call, decode, int_array, new_struct
from ._lib import lib

FORMATS = ("auto", "text", "text_rows", "prompt_completion", "alpaca", "sharegpt", "messages", "classification", "regression", "multi_label",
           "token_cls", "masked_lm", "images", "choices", "question_ans", "pairs")


class Batch:
    """A ragged batch from lists of sequences: Batch([[1, 2, 3], [4, 5]]). `labels` defaults to the ids themselves (a causal model learns
    every token); -100 is not learnt. Keeps its arrays as long as it lives.

    Prompts inside the text: `prompt_index` has for each token the row of the trained prompt that takes its place, -1 none; `mask_positions`
    is the row of each sequence where WARP reads its answer.

    Encoder-decoder models: `targets` are lists of what the decoder is to write, one for each sequence, or `target_source` says which sequence each
    belongs to; the decoder reads them shifted right behind `decoder_start`."""

    def __init__(self, sequences, labels="same", sequence_labels=None, token_types=None, positions=None, adapter_ids=None, targets=None,
                 target_source=None, decoder_start=0, prompt_index=None, mask_positions=None):
        self.struct = new_struct(_abi.Batch, "peft_batch_init_sized")
        lengths = [len(s) for s in sequences]
        self._arrays = []
        offsets = numpy.zeros(len(lengths) + 1, numpy.int32)
        numpy.cumsum(lengths, out=offsets[1:])
        self.struct.rows, self.struct.sequences = int(offsets[-1]), len(lengths)
        self._put("offsets", offsets)
        ids = int_array(numpy.concatenate([numpy.asarray(s) for s in sequences]) if lengths else [], "sequences")
        self._put("input_ids", ids)
        if isinstance(labels, str) and labels == "same" and targets is not None:
            labels = None
        if isinstance(labels, str):
            if labels != "same":
                raise ValueError(f'labels: expected lists, None or "same", found {labels!r}')
            self._put("labels", ids)
        elif labels is not None:
            self._put("labels", self._flat(labels, lengths, "labels"))
        if token_types is not None:
            self._put("token_type_ids", self._flat(token_types, lengths, "token_types"))
        if positions is not None:
            self._put("position_ids", self._flat(positions, lengths, "positions"))
        if prompt_index is not None:
            self._put("prompt_index", self._flat(prompt_index, lengths, "prompt_index"))
        if mask_positions is not None:
            self._put("mask_positions", self._each(mask_positions, lengths, "mask_positions"))
        if sequence_labels is not None:
            self._put("sequence_labels", self._each(sequence_labels, lengths, "sequence_labels"))
        if adapter_ids is not None:
            self._put("adapter_ids", self._each(adapter_ids, lengths, "adapter_ids"))
        if targets is not None:
            self._put_targets(targets, target_source, decoder_start)

    def _put_targets(self, targets, source, start):
        targets = [int_array(t, "targets") for t in targets]
        offsets = numpy.zeros(len(targets) + 1, numpy.int32)
        numpy.cumsum([len(t) for t in targets], out=offsets[1:])
        self.struct.decoder_rows, self.struct.decoder_sequences = int(offsets[-1]), len(targets)
        self._put("decoder_offsets", offsets)
        self._put("decoder_labels", int_array(numpy.concatenate(targets) if targets else [], "targets"))
        shifted = [numpy.concatenate([[start], numpy.where(t[:-1] < 0, start, t[:-1])]) for t in targets if len(t)]
        self._put("decoder_input_ids", int_array(numpy.concatenate(shifted) if shifted else [], "targets"))
        if source is not None:
            self._put("decoder_source", self._each(source, targets, "target_source"))

    @staticmethod
    def _flat(lists, lengths, what):
        if [len(s) for s in lists] != lengths:
            raise ValueError(f"{what}: lengths differ from those of the sequences")
        return int_array(numpy.concatenate([numpy.asarray(s) for s in lists]), what)

    @staticmethod
    def _each(values, lengths, what):
        if len(values) != len(lengths):
            raise ValueError(f"{what}: expected {len(lengths)}, found {len(values)}")
        return int_array(values, what)

    def _put(self, field, array):
        self._arrays.append(array)
        pointer = as_float_pointer(array) if array.dtype == numpy.float32 else as_int_pointer(array)
        setattr(self.struct, field, pointer)

    @property
    def rows(self):
        return self.struct.rows


class _DatasetBatch:
    """What a data set gave: valid until its next batch."""

    def __init__(self, struct, dataset):
        self.struct, self._dataset = struct, dataset

    @property
    def rows(self):
        return self.struct.rows

    def _array(self, pointer, shape):
        return numpy.ctypeslib.as_array(pointer, shape).copy() if pointer else None

    @property
    def offsets(self):
        """First row of each sequence, and the number of rows."""
        return self._array(self.struct.offsets, (self.struct.sequences + 1,))

    @property
    def labels(self):
        """Label of each row (a copy), or None."""
        return self._array(self.struct.labels, (self.struct.rows,))

    @property
    def sequence_labels(self):
        """Class of each sequence, or right answer of each question (a copy), or None."""
        return self._array(self.struct.sequence_labels, (self.struct.questions or self.struct.sequences,))

    @property
    def sequence_targets(self):
        """Numbers of each sequence (a copy), or None."""
        return self._array(self.struct.sequence_targets, (self.struct.sequences, self.struct.target_cols))

    def sequences(self):
        """Copies: a list of (input_ids, labels)."""
        s = self.struct
        ids = numpy.ctypeslib.as_array(s.input_ids, (s.rows,)).copy()
        labels = numpy.ctypeslib.as_array(s.labels, (s.rows,)).copy() if s.labels else numpy.full(s.rows, -100, numpy.int32)
        return [(ids[s.offsets[i]:s.offsets[i + 1]], labels[s.offsets[i]:s.offsets[i + 1]]) for i in range(s.sequences)]


class Dataset(Handle):
    """Examples from a file (.txt, .jsonl, .json, .csv, .tsv, also .gz) or, with path None, from add(). Iterating gives the batches of one
    epoch. Options as in include/peft/dataset.h."""

    _destroy = "peft_dataset_destroy"

    def __init__(self, context, model, path=None, format="auto", **options):
        for key, count in (("label_names", "label_name_count"), ("verbalizers", "verbalizer_count")):
            names = options.pop(key, None)
            if names is not None:
                options[key] = (ctypes.c_char_p * max(len(names), 1))(*[str(n).encode() for n in names])
                options[count] = len(names)
        struct = new_struct(_abi.DatasetOptions, "peft_dataset_options_init_sized", format=FORMATS.index(format), **options)
        pointer = ctypes.c_void_p()
        if path is None:
            call(context, "peft_dataset_create", context.handle, model.handle if model else None, ctypes.byref(struct), ctypes.byref(pointer))
        else:
            call(context, "peft_dataset_open", context.handle, model.handle, os.fsencode(path), ctypes.byref(struct), ctypes.byref(pointer))
        self._own(pointer.value, context, context, model)

    def add(self, input_ids, labels=None):
        ids = int_array(input_ids, "input_ids")
        marks = None if labels is None else int_array(labels, "labels")
        if marks is not None and len(marks) != len(ids):
            raise ValueError(f"labels: expected {len(ids)}, found {len(marks)}")
        call(self._context, "peft_dataset_add", self.handle, as_int_pointer(ids), None if marks is None else as_int_pointer(marks), len(ids))

    def __len__(self):
        return lib.peft_dataset_size(self.handle)

    @property
    def batches(self):
        return lib.peft_dataset_batches(self.handle)

    @property
    def report(self):
        return decode(lib.peft_dataset_report(self.handle))

    @property
    def label_names(self):
        """Names of the classes of labelled data, in order."""
        return [decode(lib.peft_dataset_label_name(self.handle, i)) for i in range(lib.peft_dataset_label_count(self.handle))]

    @property
    def label_examples(self):
        """Examples (token data: words) of each class."""
        return [lib.peft_dataset_label_examples(self.handle, i) for i in range(lib.peft_dataset_label_count(self.handle))]

    @classmethod
    def labels(cls, context, path, format, **options):
        """The classes of a file (`label_names`), read without a model: to load one with as many outputs. No examples."""
        self = cls.__new__(cls)
        struct = new_struct(_abi.DatasetOptions, "peft_dataset_options_init_sized", format=FORMATS.index(format), **options)
        pointer = ctypes.c_void_p()
        call(context, "peft_dataset_open_labels", context.handle, os.fsencode(path), ctypes.byref(struct), ctypes.byref(pointer))
        self._own(pointer.value, context, context)
        return self

    def balanced_weights(self):
        """Weights of the classes under which rare ones count as much as frequent ones (Session's class_weights)."""
        weights = numpy.ones(lib.peft_dataset_label_count(self.handle), numpy.float32)
        call(self._context, "peft_dataset_balanced_weights", self.handle, as_float_pointer(weights), weights.size)
        return weights

    @property
    def chat_template(self):
        """Name of the chat format in use, or None."""
        found = lib.peft_dataset_chat_template(self.handle)
        return None if found is None else decode(found)

    def tokens(self):
        """All tokens, those that are learnt, and the longest example."""
        values = [ctypes.c_int64() for _ in range(3)]
        lib.peft_dataset_tokens(self.handle, *[ctypes.byref(v) for v in values])
        return dict(zip(("all", "trained", "longest"), [v.value for v in values]))

    def next(self):
        """The next batch, or None at the end of an epoch."""
        struct = new_struct(_abi.Batch, "peft_batch_init_sized")
        status = call(self._context, "peft_dataset_next", self.handle, ctypes.byref(struct))
        return None if status == 2 else _DatasetBatch(struct, self)

    def __iter__(self):
        while (batch := self.next()) is not None:
            yield batch

    @property
    def position(self):
        epoch, batch = ctypes.c_uint64(), ctypes.c_uint64()
        lib.peft_dataset_position(self.handle, ctypes.byref(epoch), ctypes.byref(batch))
        return epoch.value, batch.value

    def seek(self, epoch, batch):
        call(self._context, "peft_dataset_seek", self.handle, epoch, batch)

    def preview(self, example=0):
        length = ctypes.c_uint64()
        room = 1 << 20
        buffer = ctypes.create_string_buffer(room)
        call(self._context, "peft_dataset_preview", self.handle, example, buffer, room, ctypes.byref(length))
        return buffer.raw[: length.value].decode("utf-8", "replace")
