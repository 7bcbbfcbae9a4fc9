"""Optimizers and learning-rate schedules."""

import ctypes

from . import _abi
from ._base import Handle, call, new_struct
from ._lib import lib

KINDS = ("adamw", "sgd", "adafactor", "lion")
SCHEDULES = ("constant", "linear", "cosine", "polynomial", "inverse_sqrt", "cosine_with_restarts", "cosine_with_min_lr")


class Optimizer(Handle):
    """Optimizer(context, adapter, "adamw", lr=2e-4, weight_decay=0.01, ...): options as in include/peft/optimizer.h."""

    _destroy = "peft_optimizer_destroy"

    def __init__(self, context, adapter, kind="adamw", **options):
        struct = new_struct(_abi.OptimizerOptions, "peft_optimizer_options_init_sized", kind=KINDS.index(kind), **options)
        pointer = ctypes.c_void_p()
        call(context, "peft_optimizer_create", context.handle, adapter.handle, ctypes.byref(struct), ctypes.byref(pointer))
        self._own(pointer.value, context, context, adapter)

    @property
    def lr(self):
        return lib.peft_optimizer_lr(self.handle)

    @lr.setter
    def lr(self, value):
        lib.peft_optimizer_set_lr(self.handle, value)

    def lr_scale(self, tensor):
        """Learning rate of a tensor (its place in adapter.tensors) over that of the optimizer; 0 for one that is not trained."""
        return lib.peft_optimizer_lr_scale(self.handle, tensor)

    def set_lr_scale(self, tensor, scale):
        call(self._context, "peft_optimizer_set_lr_scale", self.handle, tensor, scale)

    @property
    def steps(self):
        return lib.peft_optimizer_steps(self.handle)

    def step(self, session):
        """One update; returns grad_norm, clip_factor, loss and tokens. Raises NonFiniteError, having changed nothing."""
        stats = new_struct(_abi.StepStats)
        call(self._context, "peft_optimizer_step", self.handle, session.handle, ctypes.byref(stats))
        return {name: getattr(stats, name) for name in ("grad_norm", "clip_factor", "loss", "tokens")}


class Schedule:
    """Learning rate as a function of the step, as transformers.get_scheduler: Schedule("cosine", 2e-4, warmup_steps=10, total_steps=100)(step)."""

    def __init__(self, kind, peak_lr, warmup_steps=0, total_steps=0, **options):
        self._struct = new_struct(_abi.Schedule, "peft_schedule_init_sized", kind=SCHEDULES.index(kind), peak_lr=peak_lr,
                                  warmup_steps=warmup_steps, total_steps=total_steps, **options)

    def __call__(self, step):
        return lib.peft_schedule_lr(ctypes.byref(self._struct), step)


class Unfreezing:
    """Top layers trained at a step: adapter.top_layers = Unfreezing(stage_steps=50, first_layers=0, stage_layers=1)(step)."""

    def __init__(self, stage_steps, **options):
        self._struct = new_struct(_abi.Unfreezing, "peft_unfreezing_init_sized", stage_steps=stage_steps, **options)

    def __call__(self, step):
        return lib.peft_unfreezing_layers(ctypes.byref(self._struct), step)
