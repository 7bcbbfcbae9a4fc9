"""Sessions: forward, backward, generation. Long calls run in slices of 50 ms, so that Ctrl-C works and other threads run."""

import ctypes
import os

import numpy

from . import _abi
from ._base import Handle, as_float_pointer, as_int_pointer, call, float_array, int_array, new_struct
from ._errors import CallbackError
from ._lib import lib


SLICE_US = 50_000


class Session(Handle):
    """One model, its active adapters, and the memory to run them."""

    _destroy = "peft_session_destroy"

    def __init__(self, context, model, adapters=(), own_loss=False, loss=None, **options):
        """loss: "task" (default), "host" (the same as own_loss=True) or "tfew"."""
        adapters = list(adapters) if isinstance(adapters, (list, tuple)) else [adapters]
        if options.get("class_weights") is not None:
            weights = float_array(options["class_weights"], "class_weights")
            options["class_weights"] = as_float_pointer(weights)  # copied by the library
        struct = new_struct(_abi.SessionOptions, "peft_session_options_init_sized", loss={None: int(own_loss), "task": 0, "host": 1, "tfew": 2}[loss], **options)
        array = (ctypes.c_void_p * max(1, len(adapters)))(*[a.handle for a in adapters])
        pointer = ctypes.c_void_p()
        call(context, "peft_session_create", context.handle, model.handle, array, len(adapters), ctypes.byref(struct), ctypes.byref(pointer))
        self._own(pointer.value, context, context, model, *adapters)

    @staticmethod
    def memory(context, model, adapters=(), **options):
        """Bytes that a session would take, before anything is taken."""
        adapters = list(adapters) if isinstance(adapters, (list, tuple)) else [adapters]
        struct = new_struct(_abi.SessionOptions, "peft_session_options_init_sized", **options)
        info = new_struct(_abi.MemoryInfo)
        array = (ctypes.c_void_p * max(1, len(adapters)))(*[a.handle for a in adapters])
        call(context, "peft_session_memory", context.handle, model.handle, array, len(adapters), ctypes.byref(struct), ctypes.byref(info))
        return {name: getattr(info, name) for name, *_ in info._fields_ if name != "struct_size"}

    def set_adapters(self, adapters):
        array = (ctypes.c_void_p * max(1, len(adapters)))(*[a.handle for a in adapters])
        call(self._context, "peft_session_set_adapters", self.handle, array, len(adapters))
        self._parents = self._parents[:2] + tuple(adapters)

    @property
    def flops(self):
        """Floating-point operations of the matrix products done so far: the difference of two readings is the cost of what came between."""
        return lib.peft_session_flops(self.handle)

    def zero_grad(self):
        call(self._context, "peft_session_zero_grad", self.handle)

    def advance(self, budget_us, progress=None):
        """Works for about budget_us microseconds; True when the pass is complete."""
        return call(self._context, "peft_session_advance", self.handle, budget_us, progress) == 0

    def begin(self, batch, passes="both", weight=1.0):
        """Starts a pass for advance(); the batch must stay as it is until it is complete."""
        self._running = batch
        call(self._context, "peft_session_begin", self.handle, ctypes.byref(batch.struct), {"forward": 1, "backward": 2, "both": 3}[passes], weight)

    def _run(self, batch, passes, weight=1.0):
        self.begin(batch, passes, weight)
        progress = new_struct(_abi.Progress)
        try:
            while not self.advance(SLICE_US, ctypes.byref(progress)):
                pass
        except KeyboardInterrupt:
            self.cancel()
            raise
        return progress.loss

    def forward(self, batch):
        """Mean loss over counted targets, in training mode."""
        return self._run(batch, "forward")

    def backward(self, weight=1.0):
        """Adds the gradients of the last forward pass, times weight."""
        call(self._context, "peft_session_backward", self.handle, weight)

    def forward_backward(self, batch, weight=1.0):
        return self._run(batch, "both", weight)

    def eval(self, batch):
        """(mean loss, counted targets), without dropout or gradients."""
        loss, count = ctypes.c_double(), ctypes.c_double()
        call(self._context, "peft_session_eval", self.handle, ctypes.byref(batch.struct), ctypes.byref(loss), ctypes.byref(count))
        return loss.value, count.value

    def cancel(self):
        """Asks a running call to stop; from any thread."""
        lib.peft_session_cancel(self.handle)

    def logits(self, batch, last=False):
        """[rows, classes] float32; with last=True only each sequence's last row."""
        rows, cols = ctypes.c_int64(), ctypes.c_int64()
        info = new_struct(_abi.ModelInfo)
        call(self._context, "peft_model_get_info", self._parents[1].handle, ctypes.byref(info))
        width = max(info.vocab_size, info.num_labels, info.hidden_size, 1)
        struct = batch.struct
        height = max(struct.sequences, struct.decoder_sequences) if last else max(struct.rows, struct.decoder_rows) + 256 * struct.sequences
        out = numpy.empty(height * width, numpy.float32)
        call(self._context, "peft_session_logits", self.handle, ctypes.byref(batch.struct), int(last), as_float_pointer(out), out.size,
             ctypes.byref(rows), ctypes.byref(cols))
        return out[: rows.value * cols.value].reshape(rows.value, cols.value).copy()

    def embed(self, batch, pooling="mean", normalize=True):
        """[sequences, hidden_size] float32: embeddings of texts, by a model of the task FEATURE_EXTRACTION. pooling: "mean", "first" or "last"."""
        rows, cols = ctypes.c_int64(), ctypes.c_int64()
        info = new_struct(_abi.ModelInfo)
        call(self._context, "peft_model_get_info", self._parents[1].handle, ctypes.byref(info))
        out = numpy.empty(max(1, batch.struct.sequences * info.hidden_size), numpy.float32)
        call(self._context, "peft_session_embed", self.handle, ctypes.byref(batch.struct), ("mean", "first", "last").index(pooling), int(normalize),
             as_float_pointer(out), out.size, ctypes.byref(rows), ctypes.byref(cols))
        return out[: rows.value * cols.value].reshape(rows.value, cols.value).copy()

    def score(self, batch):
        """(sum of -log p, number of tokens) of the labels of every sequence; of every decoder sequence for encoder-decoder models. The likeliest of several
        answers is that with the smallest quotient."""
        size = max(batch.struct.sequences, batch.struct.decoder_sequences)
        nll, tokens, count = numpy.empty(size, numpy.float64), numpy.empty(size, numpy.int64), ctypes.c_int64()
        call(self._context, "peft_session_score", self.handle, ctypes.byref(batch.struct), nll.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
             tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)), size, ctypes.byref(count))
        return nll[: count.value].copy(), tokens[: count.value].copy()

    def rank(self, batch, length_penalty=1.0):
        """Rank classification: (number of the likeliest answer, cross entropy over the answers or NaN) of every question of the batch."""
        size = max(batch.struct.questions, batch.struct.sequences)
        best, losses, count = numpy.empty(size, numpy.int32), numpy.empty(size, numpy.float64), ctypes.c_int64()
        call(self._context, "peft_session_rank", self.handle, ctypes.byref(batch.struct), length_penalty, as_int_pointer(best),
             losses.ctypes.data_as(ctypes.POINTER(ctypes.c_double)), size, ctypes.byref(count))
        return best[: count.value].copy(), losses[: count.value].copy()

    def output(self):
        """own_loss sessions: the outputs of the last forward pass (a copy)."""
        pointer, rows, cols = ctypes.POINTER(ctypes.c_float)(), ctypes.c_int64(), ctypes.c_int64()
        call(self._context, "peft_session_output", self.handle, ctypes.byref(pointer), ctypes.byref(rows), ctypes.byref(cols))
        return numpy.ctypeslib.as_array(pointer, (rows.value, cols.value)).copy()

    def set_output_grad(self, gradient):
        """own_loss sessions: the gradient of your loss with respect to output(), before backward()."""
        gradient = float_array(gradient, "gradient")
        expected = self.output().shape
        if gradient.shape != expected:
            raise ValueError(f"gradient: expected shape {expected}, found {gradient.shape}")
        pointer = ctypes.POINTER(ctypes.c_float)()
        call(self._context, "peft_session_output_grad", self.handle, ctypes.byref(pointer))
        ctypes.memmove(pointer, gradient.ctypes.data, gradient.nbytes)

    def gradients(self, adapter):
        """Mean gradient accumulated for the adapter as one flat array, in the order of adapter.parameters."""
        values = numpy.empty(adapter.parameter_count, numpy.float32)
        call(self._context, "peft_session_get_gradients", self.handle, adapter.handle, as_float_pointer(values), values.size)
        return values

    def set_gradients(self, adapter, values):
        values = float_array(values, "gradients")
        call(self._context, "peft_session_set_gradients", self.handle, adapter.handle, as_float_pointer(values), values.size)

    def generate(self, prompt, on_text=None, stop=(), **options):
        """Continues token ids (or, with the model's tokenizer, a text). Returns ids for ids and text for text."""
        tokenizer = self._parents[1].tokenizer
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else int_array(prompt, "prompt")
        struct = new_struct(_abi.GenerateOptions, "peft_generate_options_init_sized", **options)
        strings = (ctypes.c_char_p * max(1, len(stop)))(*[s.encode() for s in stop])
        struct.stop, struct.stop_count = strings, len(stop)
        raised = []
        if on_text is not None:

            def write(_user, text, length):
                try:
                    return 1 if on_text(ctypes.string_at(text, length).decode("utf-8", "replace")) else 0
                except BaseException as error:  # noqa: BLE001 - raised again below, on this side of C
                    raised.append(error)
                    return 1

            callback = _abi.TextFn(write)
            struct.on_text = callback
        out = numpy.empty(struct.max_new_tokens, numpy.int32)
        count = ctypes.c_int64()
        try:
            call(self._context, "peft_session_generate", self.handle, as_int_pointer(ids), len(ids), ctypes.byref(struct), as_int_pointer(out),
                 len(out), ctypes.byref(count))
        except CallbackError:
            if not raised:
                raise
        if raised:
            raise raised[0]
        out = out[: count.value].copy()
        return tokenizer.decode(out, skip_special=True) if isinstance(prompt, str) else out

    def save_checkpoint(self, optimizer, folder, state=None):
        """Adapter, optimizer state, counters and your own text; resuming gives the same bits."""
        call(self._context, "peft_checkpoint_save", self.handle, optimizer.handle, os.fsencode(folder), None if state is None else state.encode())

    def load_checkpoint(self, optimizer, folder):
        """Restores; returns the text given to save_checkpoint, or None."""
        pointer = ctypes.c_void_p()
        call(self._context, "peft_checkpoint_load", self.handle, optimizer.handle, os.fsencode(folder), ctypes.byref(pointer))
        if not pointer.value:
            return None
        state = ctypes.string_at(pointer.value).decode()
        lib.peft_text_free(self._context.handle, pointer)
        return state
