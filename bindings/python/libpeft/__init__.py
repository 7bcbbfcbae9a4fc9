"""libpeft: parameter-efficient fine-tuning of transformers on CPUs.

    import libpeft as peft

    with peft.Context() as context:
        model = peft.Model(context, "SmolLM2-135M-Instruct.gguf")
        adapter = peft.Adapter(context, model, peft_type="LORA", r=8, target_modules=["q_proj", "v_proj"])
        data = peft.Dataset(context, model, "notes.jsonl")
        optimizer = peft.Optimizer(context, adapter, lr=2e-4)
        session = peft.Session(context, model, adapter)
        for batch in data:
            loss = session.forward_backward(batch)
            optimizer.step(session)
        adapter.save("my-adapter")

Every class wraps one handle of the C interface (include/peft); the host drives every step.
"""

from ._errors import (AbiError, ArgumentError, CallbackError, CancelledError, FileError, FormatError, LimitError, MismatchError, NonFiniteError,
                      OutOfMemoryError, PeftError, StateError, UnsupportedError)
from . import metrics
from ._lib import lib as _library
from .adapter import Adapter
from .context import Context
from .dataset import Batch, Dataset
from .evaluation import Evaluation, greater_is_better
from .image import ImageBatch, ImageProcessor
from .model import Model
from .optimizer import Optimizer, Schedule, Unfreezing
from .prompts import Prompts
from .session import Session
from .tokenizer import Tokenizer

__version__ = _library.peft_version_string().decode()
__all__ = ["Adapter", "Batch", "Context", "Dataset", "Evaluation", "ImageBatch", "ImageProcessor", "Model", "Optimizer", "Prompts", "Schedule", "Session", "Tokenizer", "Unfreezing", "greater_is_better", "metrics", "PeftError", "AbiError",
           "ArgumentError", "CallbackError", "CancelledError", "FileError", "FormatError", "LimitError", "MismatchError", "NonFiniteError",
           "OutOfMemoryError", "StateError", "UnsupportedError"]
