"""Structures and prototypes of the C interface, field by field and call by call as in include/peft.

`tests/test_abi.py` compiles a C program that prints the size and offset of every field and compares them with these
classes, and counts the arguments of every declared function against PROTOTYPES.
"""

import ctypes as c

ABI_VERSION = 0

STATUS = {
    0: "PEFT_OK", 1: "PEFT_AGAIN", 2: "PEFT_END", -1: "PEFT_E_ARG", -2: "PEFT_E_STATE", -3: "PEFT_E_NOMEM", -4: "PEFT_E_LIMIT",
    -5: "PEFT_E_IO", -6: "PEFT_E_FORMAT", -7: "PEFT_E_UNSUPPORTED", -8: "PEFT_E_MISMATCH", -9: "PEFT_E_NONFINITE",
    -10: "PEFT_E_CANCELLED", -11: "PEFT_E_CALLBACK", -12: "PEFT_E_ABI", -13: "PEFT_E_INTERNAL",
}

i32, u32, i64, u64, f32, f64 = c.c_int32, c.c_uint32, c.c_int64, c.c_uint64, c.c_float, c.c_double
size, text, handle = c.c_size_t, c.c_char_p, c.c_void_p
P = c.POINTER

LogFn = c.CFUNCTYPE(None, c.c_void_p, i32, c.c_char_p)
MeasureFn = c.CFUNCTYPE(f64, c.c_void_p, P(i64), i64)
TextFn = c.CFUNCTYPE(i32, c.c_void_p, c.c_void_p, u32)
ReadFn = c.CFUNCTYPE(i64, c.c_void_p, u64, c.c_void_p, u64)


class Struct(c.Structure):
    """A structure whose first field is its size: `Struct.new()` has the library's defaults."""


class Reader(c.Structure):
    _fields_ = [("read", ReadFn), ("size", u64), ("user", c.c_void_p)]


class ContextOptions(Struct):
    _fields_ = [("struct_size", u32), ("threads", u32), ("memory_limit", u64), ("allocator", c.c_void_p), ("executor", c.c_void_p),
                ("log", LogFn), ("log_user", c.c_void_p), ("log_level", i32), ("cpu_features", u32)]


class TensorInfo(Struct):
    _fields_ = [("struct_size", u32), ("dtype", i32), ("ndim", u32), ("trainable", u32), ("shape", i64 * 8), ("bytes", u64),
                ("name", text), ("data", c.c_void_p)]


class ModelOptions(Struct):
    _fields_ = [("struct_size", u32), ("task", i32), ("num_labels", u32), ("validate", u32), ("allow_unexpected", u32), ("problem_type", i32),
                ("label_names", P(text)), ("label_name_count", u32), ("reserved", u32)]


class ModelInfo(Struct):
    _fields_ = [("struct_size", u32), ("task", i32), ("model_type", text), ("name", text), ("parameters", i64), ("bytes", i64),
                ("hidden_size", i64), ("num_hidden_layers", i64), ("num_attention_heads", i64), ("num_key_value_heads", i64),
                ("head_dim", i64), ("intermediate_size", i64), ("vocab_size", i64), ("max_position_embeddings", i64),
                ("num_labels", i64), ("hash", u64)]


class ModuleInfo(Struct):
    _fields_ = [("struct_size", u32), ("kind", i32), ("name", text), ("in_features", i64), ("out_features", i64), ("dtype", i32),
                ("layer", i32), ("has_bias", u32), ("is_new", u32)]


class Batch(Struct):
    _fields_ = [("struct_size", u32), ("flags", u32), ("rows", i64), ("sequences", i64), ("offsets", P(i32)), ("input_ids", P(i32)),
                ("position_ids", P(i32)), ("token_type_ids", P(i32)), ("labels", P(i32)), ("features", P(f32)), ("feature_cols", i64),
                ("sequence_labels", P(i32)), ("sequence_targets", P(f32)), ("target_cols", i64), ("mask_positions", P(i32)),
                ("adapter_ids", P(i32)), ("decoder_rows", i64), ("decoder_sequences", i64), ("decoder_offsets", P(i32)),
                ("decoder_input_ids", P(i32)), ("decoder_labels", P(i32)), ("decoder_source", P(i32)), ("prompt_index", P(i32)), ("image_grids", P(i32)),
                ("start_positions", P(i32)), ("end_positions", P(i32)), ("questions", i64), ("choice_offsets", P(i32))]


class CombineOptions(Struct):
    _fields_ = [("struct_size", u32), ("rank", u32), ("density", f32), ("majority", i32), ("seed", u64)]


class Difference(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("values", i64), ("largest", f64), ("magnitude", f64)]


class OptimizerOptions(Struct):
    _fields_ = [("struct_size", u32), ("kind", i32), ("lr", f32), ("beta1", f32), ("beta2", f32), ("eps", f32), ("weight_decay", f32),
                ("max_grad_norm", f32), ("decay_all", u32), ("adafactor_clip_threshold", f32), ("adafactor_decay_rate", f32),
                ("adafactor_scale_parameter", u32), ("nesterov", u32), ("loraplus_lr_ratio", f32), ("dampening", f32), ("layer_lr_decay", f32), ("reserved", u32 * 3)]


class Unfreezing(Struct):
    _fields_ = [("struct_size", u32), ("first_layers", i32), ("stage_layers", i32), ("reserved", u32), ("stage_steps", u64)]


class StepStats(Struct):
    _fields_ = [("struct_size", u32), ("skipped", u32), ("grad_norm", f64), ("clip_factor", f64), ("loss", f64), ("tokens", f64)]


class Schedule(Struct):
    _fields_ = [("struct_size", u32), ("kind", i32), ("warmup_steps", u64), ("total_steps", u64), ("peak_lr", f64), ("power", f64),
                ("end_lr", f64), ("num_cycles", f64), ("timescale", u64), ("min_lr_rate", f64)]


class SessionOptions(Struct):
    _fields_ = [("struct_size", u32), ("loss", i32), ("max_rows", i64), ("max_sequences", i64), ("max_labels", i64),
                ("max_decoder_rows", i64), ("max_decoder_sequences", i64), ("seed", u64), ("label_smoothing", f32), ("inference", u32),
                ("class_weights", P(f32)),
                ("similarity_scale", f32), ("reserved", u32 * 3)]


class MemoryInfo(Struct):
    _fields_ = [("struct_size", u32), ("steps", u32), ("activations", u64), ("activations_lower_bound", u64), ("gradients", u64),
                ("optimizer", u64), ("weights", u64), ("total", u64)]


class Progress(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("done", u64), ("total", u64), ("longest_slice_us", u64), ("loss", f64)]


class GenerateOptions(Struct):
    _fields_ = [("struct_size", u32), ("max_new_tokens", u32), ("temperature", f32), ("top_k", u32), ("top_p", f32),
                ("repetition_penalty", f32), ("seed", u64), ("stop", P(text)), ("stop_count", u32), ("ignore_eos", u32),
                ("on_text", TextFn), ("user", c.c_void_p), ("num_beams", u32), ("length_penalty", f32)]


class DatasetOptions(Struct):
    _fields_ = [("struct_size", u32), ("format", i32), ("max_length", i64), ("stride", i64), ("batch_size", i64), ("packing", u32),
                ("train_on_prompt", u32), ("eos", i32), ("shuffle", u32), ("seed", u64), ("on_bad_row", i32), ("part", i32),
                ("validation_fraction", f64), ("max_examples", i64), ("chat_template", text), ("text_key", text), ("prompt_key", text),
                ("completion_key", text), ("drop_last", u32), ("reserved", u32 * 7), ("label_key", text), ("text_pair_key", text),
                ("label_names", P(text)), ("label_name_count", u32), ("unlabelled", u32), ("truncation", i32), ("mask_probability", f32),
                ("image_flip", f32), ("image_crop", u32), ("input_template", text), ("choices_key", text), ("verbalizers", P(text)),
                ("verbalizer_count", u32), ("right_only", u32), ("layout", text)]


class EvaluateOptions(Struct):
    _fields_ = [("struct_size", u32), ("n_best", u32), ("max_batches", i64), ("max_answer_length", i64), ("threshold", f32), ("no_answer", u32)]


class ClassMetrics(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("count", i64), ("accuracy", f64), ("macro_precision", f64), ("macro_recall", f64),
                ("macro_f1", f64), ("micro_f1", f64), ("weighted_f1", f64), ("matthews", f64)]


class ValueMetrics(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("count", i64), ("mse", f64), ("mae", f64), ("r2", f64), ("pearson", f64),
                ("spearman", f64)]


class EntityMetrics(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("entities", i64), ("predicted", i64), ("correct", i64), ("precision", f64),
                ("recall", f64), ("f1", f64), ("accuracy", f64)]


class Interval(Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("value", f64), ("low", f64), ("high", f64), ("deviation", f64)]


class ImageInfo(Struct):
    _fields_ = [("struct_size", u32), ("channels", u32), ("image_height", u32), ("image_width", u32), ("patch_height", u32), ("patch_width", u32)]


class ImageAugment(Struct):
    _fields_ = [("struct_size", u32), ("random_resized_crop", u32), ("seed", u64), ("min_scale", f32), ("max_scale", f32), ("min_ratio", f32),
                ("max_ratio", f32), ("flip", f32), ("reserved", u32)]


class ChatMessage(c.Structure):
    _fields_ = [("role", text), ("content", text)]


class ChatSpan(c.Structure):
    _fields_ = [("begin", u64), ("end", u64), ("message", u64)]


# C names of the structures above, for the layout test.
class PromptInfo(Struct):
    _fields_ = [("struct_size", u32), ("kind", i32), ("name", text), ("shots", u32), ("seed_count", u32), ("score", i32), ("calibrated", u32)]


RowFn = c.CFUNCTYPE(i32, c.c_void_p, i64, i64)


class PromptRunOptions(Struct):
    _fields_ = [("struct_size", u32), ("no_cache", u32), ("level", f64), ("samples", u32), ("reserved", u32), ("on_row", RowFn), ("user", c.c_void_p)]


class PromptScores(Struct):
    _fields_ = [("struct_size", u32), ("classes", u32), ("count", i64), ("accuracy", f64), ("accuracy_low", f64), ("accuracy_high", f64),
                ("macro_f1", f64), ("macro_f1_low", f64), ("macro_f1_high", f64), ("unread", i64), ("skipped", i64), ("seed", u64),
                ("ms_per_example", f64), ("ms_common", f64), ("common_tokens", i64), ("tokens_per_example", f64), ("context_per_example", f64),
                ("labels", P(i32)), ("predictions", P(i32)), ("scores", P(f64)), ("lines", P(u64)), ("texts", P(text))]


STRUCTS = {
    "peft_prompt_info": PromptInfo, "peft_prompt_run_options": PromptRunOptions, "peft_prompt_scores": PromptScores,
    "peft_combine_options": CombineOptions, "peft_difference": Difference,
    "peft_evaluate_options": EvaluateOptions, "peft_reader": Reader, "peft_context_options": ContextOptions, "peft_tensor_info": TensorInfo, "peft_model_options": ModelOptions,
    "peft_image_info": ImageInfo, "peft_image_augment": ImageAugment, "peft_model_info": ModelInfo, "peft_module_info": ModuleInfo,
    "peft_batch": Batch, "peft_optimizer_options": OptimizerOptions,
    "peft_step_stats": StepStats, "peft_schedule": Schedule, "peft_unfreezing": Unfreezing, "peft_session_options": SessionOptions, "peft_memory_info": MemoryInfo,
    "peft_progress": Progress, "peft_generate_options": GenerateOptions, "peft_dataset_options": DatasetOptions,
    "peft_class_metrics": ClassMetrics, "peft_value_metrics": ValueMetrics, "peft_entity_metrics": EntityMetrics, "peft_interval": Interval,
    "peft_chat_message": ChatMessage, "peft_chat_span": ChatSpan,
}

# name: (result, arguments). "status" results are checked by the caller.
status = i32
PROTOTYPES = {
    "peft_status_name": (text, [status]),
    "peft_status_text": (text, [status]),
    "peft_version_number": (u32, []),
    "peft_version_string": (text, []),
    "peft_abi_version": (u32, []),
    "peft_context_options_init_sized": (None, [P(ContextOptions), u32]),
    "peft_context_create_abi": (status, [P(ContextOptions), u32, P(handle)]),
    "peft_context_destroy": (None, [handle]),
    "peft_context_error": (text, [handle]),
    "peft_context_memory": (None, [handle, P(u64), P(u64), P(u64)]),
    "peft_context_reset_peak": (None, [handle]),
    "peft_cost_inference": (f64, [i32, f64, f64]),
    "peft_cost_training": (f64, [i32, f64, f64]),
    "peft_cost_training_frozen": (f64, [i32, f64, f64, f64]),
    "peft_cost_icl": (f64, [i32, f64, f64, f64, f64, i32]),
    "peft_cost_adapter_bytes": (f64, [f64, f64]),
    "peft_cost_icl_bytes": (f64, [f64, f64]),
    "peft_context_set_threads": (status, [handle, u32]),
    "peft_context_threads": (u32, [handle]),
    "peft_context_build_info": (text, [handle]),
    "peft_argmax": (None, [P(f32), i64, i64, P(i32)]),
    "peft_metric_classes": (status, [handle, P(i32), P(i32), i64, u32, P(ClassMetrics), P(i64), P(f64)]),
    "peft_metric_multi_label": (status, [handle, P(f32), P(f32), i64, u32, f32, P(ClassMetrics)]),
    "peft_metric_values": (status, [handle, P(f32), P(f32), i64, P(ValueMetrics)]),
    "peft_metric_entities": (status, [handle, P(i32), P(i32), P(i32), i64, P(text), u32, P(EntityMetrics)]),
    "peft_metric_answer": (status, [handle, text, P(text), u32, P(f64), P(f64)]),
    "peft_metric_wilson": (status, [handle, i64, i64, f64, P(Interval)]),
    "peft_prompts_open": (status, [handle, text, P(text), u32, P(handle)]),
    "peft_prompts_open_memory": (status, [handle, c.c_void_p, u64, text, P(text), u32, P(handle)]),
    "peft_prompts_destroy": (None, [handle]),
    "peft_prompts_get_text": (status, [handle, text, P(text)]),
    "peft_prompts_class_count": (u32, [handle]),
    "peft_prompts_class_name": (text, [handle, u32]),
    "peft_prompts_count": (u32, [handle]),
    "peft_prompts_get_info": (status, [handle, u32, P(PromptInfo)]),
    "peft_prompts_render": (status, [handle, handle, u32, u32, i64, P(c.c_void_p)]),
    "peft_prompt_run_options_init_sized": (None, [P(PromptRunOptions), u32]),
    "peft_prompts_run": (status, [handle, handle, u32, u32, P(PromptRunOptions), P(handle)]),
    "peft_prompt_result_destroy": (None, [handle]),
    "peft_prompt_result_get": (status, [handle, P(PromptScores)]),
    "peft_metric_bootstrap": (status, [handle, MeasureFn, c.c_void_p, i64, u32, f64, u64, P(Interval)]),
    "peft_dtype_name": (text, [i32]),
    "peft_model_options_init_sized": (None, [P(ModelOptions), u32]),
    "peft_model_load": (status, [handle, text, P(ModelOptions), P(handle)]),
    "peft_model_load_memory": (status, [handle, c.c_void_p, u64, P(ModelOptions), P(handle)]),
    "peft_model_load_reader": (status, [handle, P(Reader), P(ModelOptions), P(handle)]),
    "peft_model_destroy": (None, [handle]),
    "peft_model_get_info": (status, [handle, P(ModelInfo)]),
    "peft_model_module_count": (u32, [handle]),
    "peft_model_module": (status, [handle, u32, P(ModuleInfo)]),
    "peft_model_load_report": (text, [handle]),
    "peft_model_config": (text, [handle]),
    "peft_model_tokenizer": (handle, [handle]),
    "peft_model_merge": (status, [handle, handle, P(handle), u32, P(handle)]),
    "peft_model_save": (status, [handle, handle, text, i32]),
    "peft_adapter_create": (status, [handle, handle, text, u64, P(handle)]),
    "peft_adapter_load": (status, [handle, handle, text, P(handle)]),
    "peft_adapter_save": (status, [handle, text]),
    "peft_adapter_destroy": (None, [handle]),
    "peft_adapter_config": (text, [handle]),
    "peft_adapter_report": (text, [handle]),
    "peft_adapter_parameter_count": (i64, [handle]),
    "peft_adapter_tensor_count": (u32, [handle]),
    "peft_adapter_tensor": (status, [handle, u32, P(TensorInfo)]),
    "peft_adapter_get_parameters": (status, [handle, P(f32), i64]),
    "peft_adapter_set_parameters": (status, [handle, P(f32), i64]),
    "peft_adapter_set_tensor": (status, [handle, text, P(f32), i64]),
    "peft_model_save_gguf": (status, [handle, handle, text]),
    "peft_model_save_merged": (status, [handle, handle, P(handle), u32, text, i32]),
    "peft_model_compare": (status, [handle, handle, P(handle), u32, handle, P(handle), u32, P(Difference)]),
    "peft_adapter_verify": (status, [handle, text, P(Difference)]),
    "peft_model_verify": (status, [handle, handle, P(handle), u32, text, P(Difference)]),
    "peft_adapter_set_scale": (status, [handle, f32]),
    "peft_adapter_set_top_layers": (status, [handle, i32]),
    "peft_adapter_top_layers": (i32, [handle]),
    "peft_combine_options_init_sized": (None, [P(CombineOptions), u32]),
    "peft_adapter_combine": (status, [handle, handle, P(handle), P(f32), u32, text, P(CombineOptions), P(handle)]),
    "peft_adapter_export_gguf": (status, [handle, text]),
    "peft_adapter_import_gguf": (status, [handle, handle, text, P(handle)]),
    "peft_optimizer_options_init_sized": (None, [P(OptimizerOptions), u32]),
    "peft_optimizer_create": (status, [handle, handle, P(OptimizerOptions), P(handle)]),
    "peft_optimizer_destroy": (None, [handle]),
    "peft_optimizer_set_lr": (None, [handle, f32]),
    "peft_optimizer_lr": (f32, [handle]),
    "peft_optimizer_steps": (u64, [handle]),
    "peft_optimizer_step": (status, [handle, handle, P(StepStats)]),
    "peft_optimizer_set_lr_scale": (status, [handle, u32, f32]),
    "peft_optimizer_lr_scale": (f32, [handle, u32]),
    "peft_unfreezing_init_sized": (None, [P(Unfreezing), u32]),
    "peft_unfreezing_layers": (i32, [P(Unfreezing), u64]),
    "peft_schedule_init_sized": (None, [P(Schedule), u32]),
    "peft_schedule_lr": (f64, [P(Schedule), u64]),
    "peft_model_image_info": (status, [handle, handle, P(ImageInfo)]),
    "peft_image_patch_count": (i64, [P(ImageInfo), i64, i64, P(i32)]),
    "peft_image_patches": (status, [handle, P(ImageInfo), P(f32), i64, i64, i64, P(f32), i64]),
    "peft_image_processor_create": (status, [handle, handle, text, P(handle)]),
    "peft_image_processor_destroy": (None, [handle]),
    "peft_image_augment_init_sized": (None, [P(ImageAugment), u32]),
    "peft_image_process": (status, [handle, text, c.c_void_p, u64, P(ImageAugment), P(f32), i64, P(i64), P(i64)]),
    "peft_image_process_pixels": (status, [handle, P(c.c_uint8), i64, i64, i32, P(ImageAugment), P(f32), i64, P(i64), P(i64)]),
    "peft_batch_init_sized": (None, [P(Batch), u32]),
    "peft_session_options_init_sized": (None, [P(SessionOptions), u32]),
    "peft_session_create": (status, [handle, handle, P(handle), u32, P(SessionOptions), P(handle)]),
    "peft_session_destroy": (None, [handle]),
    "peft_session_memory": (status, [handle, handle, P(handle), u32, P(SessionOptions), P(MemoryInfo)]),
    "peft_session_set_adapters": (status, [handle, P(handle), u32]),
    "peft_session_flops": (f64, [handle]),
    "peft_session_zero_grad": (status, [handle]),
    "peft_session_forward": (status, [handle, P(Batch), P(f64)]),
    "peft_session_backward": (status, [handle, f32]),
    "peft_session_eval": (status, [handle, P(Batch), P(f64), P(f64)]),
    "peft_session_begin": (status, [handle, P(Batch), i32, f32]),
    "peft_session_advance": (status, [handle, u64, P(Progress)]),
    "peft_session_cancel": (None, [handle]),
    "peft_session_embed": (status, [handle, P(Batch), i32, i32, P(f32), i64, P(i64), P(i64)]),
    "peft_session_logits": (status, [handle, P(Batch), i32, P(f32), i64, P(i64), P(i64)]),
    "peft_session_output": (status, [handle, P(P(f32)), P(i64), P(i64)]),
    "peft_session_output_grad": (status, [handle, P(P(f32))]),
    "peft_session_get_gradients": (status, [handle, handle, P(f32), i64]),
    "peft_session_set_gradients": (status, [handle, handle, P(f32), i64]),
    "peft_session_rank": (status, [handle, P(Batch), f32, P(i32), P(f64), i64, P(i64)]),
    "peft_session_score": (status, [handle, P(Batch), P(f64), P(i64), i64, P(i64)]),
    "peft_generate_options_init_sized": (None, [P(GenerateOptions), u32]),
    "peft_session_generate": (status, [handle, P(i32), i64, P(GenerateOptions), P(i32), i64, P(i64)]),
    "peft_checkpoint_save": (status, [handle, handle, text, text]),
    "peft_checkpoint_load": (status, [handle, handle, text, P(c.c_void_p)]),
    "peft_text_free": (None, [handle, c.c_void_p]),
    "peft_dataset_options_init_sized": (None, [P(DatasetOptions), u32]),
    "peft_dataset_open": (status, [handle, handle, text, P(DatasetOptions), P(handle)]),
    "peft_dataset_open_memory": (status, [handle, handle, c.c_void_p, u64, text, P(DatasetOptions), P(handle)]),
    "peft_dataset_create": (status, [handle, handle, P(DatasetOptions), P(handle)]),
    "peft_dataset_add": (status, [handle, P(i32), P(i32), i64]),
    "peft_dataset_destroy": (None, [handle]),
    "peft_dataset_size": (i64, [handle]),
    "peft_dataset_batches": (i64, [handle]),
    "peft_dataset_tokens": (None, [handle, P(i64), P(i64), P(i64)]),
    "peft_dataset_next": (status, [handle, P(Batch)]),
    "peft_dataset_position": (None, [handle, P(u64), P(u64)]),
    "peft_dataset_seek": (status, [handle, u64, u64]),
    "peft_dataset_report": (text, [handle]),
    "peft_dataset_label_count": (u32, [handle]),
    "peft_dataset_label_name": (text, [handle, u32]),
    "peft_dataset_label_examples": (i64, [handle, u32]),
    "peft_dataset_labels_named": (i32, [handle]),
    "peft_dataset_balanced_weights": (status, [handle, P(f32), u32]),
    "peft_dataset_open_labels": (status, [handle, text, P(DatasetOptions), P(handle)]),
    "peft_evaluate_options_init_sized": (None, [P(EvaluateOptions), u32]),
    "peft_evaluate": (status, [handle, handle, P(EvaluateOptions), P(handle)]),
    "peft_evaluation_destroy": (None, [handle]),
    "peft_evaluation_size": (i64, [handle]),
    "peft_evaluation_targets": (f64, [handle]),
    "peft_evaluation_metric_name": (text, [handle, u32]),
    "peft_evaluation_metric": (status, [handle, text, u32, u64, P(Interval)]),
    "peft_metric_greater_is_better": (i32, [text]),
    "peft_evaluation_confusion": (status, [handle, P(i64), i64, P(u32)]),
    "peft_evaluation_label_name": (text, [handle, u32]),
    "peft_evaluation_report": (text, [handle, u32, u64]),
    "peft_evaluation_prediction": (text, [handle, i64]),
    "peft_dataset_chat_template": (text, [handle]),
    "peft_dataset_preview": (status, [handle, i64, c.c_char_p, u64, P(u64)]),
    "peft_tokenizer_open": (status, [handle, text, P(handle)]),
    "peft_tokenizer_open_memory": (status, [handle, c.c_void_p, size, P(handle)]),
    "peft_tokenizer_close": (None, [handle]),
    "peft_tokenizer_size": (i32, [handle]),
    "peft_tokenizer_special": (i32, [handle, i32]),
    "peft_tokenizer_token_to_id": (i32, [handle, text, size]),
    "peft_tokenizer_id_to_token": (c.c_void_p, [handle, i32, P(size)]),
    "peft_tokenizer_encode": (status, [handle, text, size, u32, P(i32), i64, P(i64)]),
    "peft_tokenizer_decode": (status, [handle, P(i32), i64, i32, c.c_char_p, size, P(size)]),
    "peft_tokenizer_chat_template": (text, [handle]),
    "peft_chat_render": (status, [handle, text, P(ChatMessage), size, i32, c.c_char_p, size, P(size), P(ChatSpan), size, P(size)]),
}
