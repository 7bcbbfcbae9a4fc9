"""Measures of predictions, as scikit-learn, SciPy, seqeval and SQuAD have them. Labels -100 do not count."""

import ctypes

import numpy

from . import _abi
from ._base import as_float_pointer, as_int_pointer, call, float_array, int_array, new_struct


def _fields(struct):
    return {name: getattr(struct, name) for name, *_ in struct._fields_ if name not in ("struct_size", "reserved")}


def _pair(a, b, make, names):
    a, b = make(a, names[0]), make(b, names[1])
    if a.shape != b.shape:
        raise ValueError(f"{names[0]} and {names[1]}: shapes {a.shape} and {b.shape} differ")
    return a, b


def classes(context, labels, predictions, count):
    """One of `count` classes an element: accuracy, macro_f1, micro_f1, weighted_f1, matthews, ..., and "f1" [count] and "confusion" [count, count]
    (label by prediction)."""
    labels, predictions = _pair(labels, predictions, int_array, ("labels", "predictions"))
    out, matrix, f1 = new_struct(_abi.ClassMetrics), numpy.zeros((count, count), numpy.int64), numpy.zeros(count)
    call(context, "peft_metric_classes", context.handle, as_int_pointer(labels), as_int_pointer(predictions), labels.size, count, ctypes.byref(out),
         matrix.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)), f1.ctypes.data_as(ctypes.POINTER(ctypes.c_double)))
    return {**_fields(out), "f1": f1, "confusion": matrix}


def multi_label(context, targets, logits, threshold=0.0):
    """Any number of classes an element: [examples, classes] each; a class is predicted above the threshold."""
    targets, logits = _pair(targets, logits, float_array, ("targets", "logits"))
    out = new_struct(_abi.ClassMetrics)
    call(context, "peft_metric_multi_label", context.handle, as_float_pointer(targets), as_float_pointer(logits), targets.shape[0], targets.shape[1],
         threshold, ctypes.byref(out))
    return _fields(out)


def values(context, targets, predictions):
    """Numbers: mse, mae, r2, pearson, spearman."""
    targets, predictions = _pair(targets, predictions, float_array, ("targets", "predictions"))
    out = new_struct(_abi.ValueMetrics)
    call(context, "peft_metric_values", context.handle, as_float_pointer(targets), as_float_pointer(predictions), targets.size, ctypes.byref(out))
    return _fields(out)


def entities(context, labels, predictions, offsets, names):
    """Entities of tag sequences ("B-PER", "I-PER", "O"): precision, recall, f1, accuracy of tags."""
    labels, predictions = _pair(labels, predictions, int_array, ("labels", "predictions"))
    offsets = int_array(offsets, "offsets")
    if offsets.size < 2 or offsets[-1] > labels.size:
        raise ValueError(f"offsets: the last is at most {labels.size}")
    out = new_struct(_abi.EntityMetrics)
    texts = (ctypes.c_char_p * len(names))(*[name.encode() for name in names])
    call(context, "peft_metric_entities", context.handle, as_int_pointer(labels), as_int_pointer(predictions), as_int_pointer(offsets), offsets.size - 1,
         texts, len(names), ctypes.byref(out))
    return _fields(out)


def answer(context, prediction, answers):
    """(exact match, F1 of words) of a text against the best of the right answers."""
    exact, f1 = ctypes.c_double(), ctypes.c_double()
    texts = (ctypes.c_char_p * max(1, len(answers)))(*[text.encode() for text in answers])
    call(context, "peft_metric_answer", context.handle, prediction.encode(), texts, len(answers), ctypes.byref(exact), ctypes.byref(f1))
    return exact.value, f1.value


def bootstrap(context, measure, count, samples=1000, level=0.95, seed=0):
    """value, low, high and deviation of measure(indices) over samples drawn with repetition."""
    failure = []

    def sample(_user, indices, size):
        try:
            return float(measure(numpy.ctypeslib.as_array(indices, (size,)).copy()))
        except BaseException as error:  # must not cross C
            failure.append(error)
            return float("nan")

    out = new_struct(_abi.Interval)
    call(context, "peft_metric_bootstrap", context.handle, _abi.MeasureFn(sample), None, count, samples, level, seed, ctypes.byref(out))
    if failure:
        raise failure[0]
    return _fields(out)
