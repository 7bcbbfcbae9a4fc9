"""What a session answers to the examples of a data set, and how right that is."""

import ctypes
import json

import numpy

from . import _abi
from ._base import Handle, call, decode, new_struct
from ._lib import lib


class Evaluation(Handle):
    """A session's answers to every example of a data set. Labelled data gives measures (`metrics()`), data opened as `unlabelled` predictions alone;
    iterating gives predictions as dictionaries. Options as in include/peft/evaluate.h."""

    _destroy = "peft_evaluation_destroy"

    def __init__(self, session, dataset, **options):
        struct = new_struct(_abi.EvaluateOptions, "peft_evaluate_options_init_sized", **options)
        pointer = ctypes.c_void_p()
        call(session._context, "peft_evaluate", session.handle, dataset.handle, ctypes.byref(struct), ctypes.byref(pointer))
        self._own(pointer.value, session._context, session._context)

    def __len__(self):
        return lib.peft_evaluation_size(self.handle)

    @property
    def targets(self):
        """What the loss is a mean of: tokens, words or examples."""
        return lib.peft_evaluation_targets(self.handle)

    @property
    def metric_names(self):
        """The measures that there are, the most telling first."""
        names = []
        while (name := lib.peft_evaluation_metric_name(self.handle, len(names))) is not None:
            names.append(decode(name))
        return names

    def metric(self, name, samples=0, seed=0):
        """One measure: its value, or with `samples` of a bootstrap a dictionary with value, low, high and deviation."""
        out = new_struct(_abi.Interval)
        call(self._context, "peft_evaluation_metric", self.handle, name.encode(), samples, seed, ctypes.byref(out))
        if samples <= 1:
            return out.value
        return {"value": out.value, "low": out.low, "high": out.high, "deviation": out.deviation}

    def metrics(self):
        """All measures."""
        return {name: self.metric(name) for name in self.metric_names}

    @property
    def label_names(self):
        names = []
        while (name := lib.peft_evaluation_label_name(self.handle, len(names))) is not None:
            names.append(decode(name))
        return names

    def confusion(self):
        """[classes, classes]: label by prediction."""
        classes = ctypes.c_uint32()
        call(self._context, "peft_evaluation_confusion", self.handle, None, 0, ctypes.byref(classes))
        matrix = numpy.zeros((classes.value, classes.value), numpy.int64)
        call(self._context, "peft_evaluation_confusion", self.handle, matrix.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)), matrix.size, None)
        return matrix

    def report(self, samples=0, seed=0):
        """All measures, classes and the confusion matrix as text."""
        with self._context.lock:
            found = lib.peft_evaluation_report(self.handle, samples, seed)
            return "" if found is None else decode(found)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._context.lock:
            line = lib.peft_evaluation_prediction(self.handle, index)
            if line is None:
                raise IndexError(index)
            return json.loads(line.decode())

    def __iter__(self):
        for index in range(len(self)):
            yield self[index]


def greater_is_better(name):
    """Whether larger values of a measure are better; None when there is no measure of that name."""
    found = lib.peft_metric_greater_is_better(name.encode())
    return None if found < 0 else bool(found)
