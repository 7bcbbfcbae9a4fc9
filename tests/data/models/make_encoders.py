"""Writes tests/data/models/encoders: one very small random model an architecture, holding a head for every task, with what
transformers computes for each: logits, loss, gradients of every parameter, hidden states; and gradients of LoRA by PEFT.

Run with torch, transformers, peft, safetensors and gguf installed: python make_encoders.py [FOLDER]
"""
import json
import pathlib
import sys

import gguf
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING

LABELS = 3
BERT = dict(vocab_size=29, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=20,
            pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
VARIANTS = {
    "bert": ("bert", {**BERT, "layer_norm_eps": 1e-6}),
    "roberta": ("roberta", {**BERT, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "problem_type": "multi_label_classification"}),
    "distilbert": ("distilbert", dict(vocab_size=29, dim=8, hidden_dim=12, n_layers=2, n_heads=2, max_position_embeddings=20, pad_token_id=0, dropout=0.0,
                                      attention_dropout=0.0, seq_classif_dropout=0.0, qa_dropout=0.0)),
    "electra": ("electra", {**BERT, "embedding_size": 6, "problem_type": "regression"}),
    "albert": ("albert", {**BERT, "embedding_size": 6, "num_hidden_groups": 2, "hidden_act": "gelu_new", "classifier_dropout_prob": 0.0}),
    "gpt2": ("gpt2", dict(vocab_size=29, n_embd=8, n_inner=12, n_layer=2, n_head=2, n_positions=20, pad_token_id=0,
                          resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, classifier_dropout=0.0, bos_token_id=1, eos_token_id=2)),
}
VARIANTS["gpt2-scaled"] = ("gpt2", {**VARIANTS["gpt2"][1], "scale_attn_by_inverse_layer_idx": True, "n_inner": None, "activation_function": "relu"})
TASKS = {"MaskedLM": "MASKED_LM", "SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS", "QuestionAnswering": "QUESTION_ANS"}
TARGETS = {"distilbert": ["q_lin", "v_lin"], "gpt2": ["c_attn", "mlp.c_proj"], "albert": ["query", "ffn"]}
LENGTHS = [9, 4, 7]


def make_batch(kind, config):
    ids = torch.full((3, 9), config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(3, 29, (length,))
        mask[row, :length] = 1
    types = torch.zeros_like(ids)
    if getattr(config, "type_vocab_size", 0) > 1:
        types = (torch.arange(9) > 3).long() * mask
    words = torch.where((torch.rand(3, 9) < 0.4) & (mask == 1), torch.randint(3, 29, (3, 9)), -100)
    words[:, 1] = 5
    tags = torch.where(mask == 1, torch.randint(0, LABELS, (3, 9)), -100)
    problem = config.problem_type
    classes = torch.tensor([2, 0, 1])
    if problem is not None:
        classes = torch.randn(3, LABELS) if problem == "regression" else torch.randint(0, 2, (3, LABELS)).float()
    batch = {"input_ids": ids, "attention_mask": mask, "words": words, "tags": tags, "classes": classes,
             "starts": torch.tensor([2, 0, 5]), "ends": torch.tensor([4, 3, 6])}
    return batch if types.max() == 0 else {**batch, "token_type_ids": types}


def inputs_of(batch, task, kind):
    names = {"MaskedLM": {"labels": "words"}, "CausalLM": {"labels": "words"}, "SequenceClassification": {"labels": "classes"}, "TokenClassification": {"labels": "tags"},
             "QuestionAnswering": {"start_positions": "starts", "end_positions": "ends"}}[task]
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch and not (key == "token_type_ids" and kind in ("distilbert", "gpt2"))}
    return {**inputs, **{key: batch[value] for key, value in names.items()}}


def logits_of(out, task):
    return torch.stack([out.start_logits, out.end_logits], -1) if task == "QuestionAnswering" else out.logits


def answer_loss(model, batch, kind):
    """transformers scores padding as a place for answers too; a sequence alone has none."""
    losses = []
    for row, length in enumerate(LENGTHS):
        one = {k: v[row:row + 1, :length] if v.ndim == 2 else v[row:row + 1] for k, v in inputs_of(batch, "QuestionAnswering", kind).items()}
        losses.append(model(**one).loss)
    return torch.stack(losses).mean()


def scramble(model):
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            norm = "norm" in name.lower() or ".ln_" in name
            tensor.normal_(0, 0.3 if tensor.ndim == 1 else 0.35)
            if norm and name.endswith("weight"):
                tensor += 1


def write_gpt2_gguf(path, config, tensors):
    outer = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    inner = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name(path.stem)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    for name, tensor in tensors.items():
        if not name.startswith("transformer."):
            continue
        module, part = name.split(".", 1)[1].rsplit(".", 1)
        target = outer.get(module) or "blk.{}.{}".format(module.split(".")[1], inner[module.split(".", 2)[2]])
        conv = part == "weight" and module.endswith(("c_attn", "c_proj", "c_fc"))
        writer.add_tensor(f"{target}.{part}", (tensor.T.contiguous() if conv else tensor).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path, config, tensors, cut):
    outer = {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd", "embeddings.token_type_embeddings": "token_types",
             "embeddings.LayerNorm": "token_embd_norm"}
    inner = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
             "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(path.stem)
    writer.add_context_length(config.max_position_embeddings - cut)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    for name, tensor in tensors.items():
        if not name.startswith(f"{config.model_type}.") or ".pooler." in name:
            continue
        module, part = name.split(".", 1)[1].rsplit(".", 1)
        value = tensor.numpy()
        if module.endswith("position_embeddings"):
            value = value[cut:]
        target = outer.get(module) or "blk.{}.{}".format(module.split(".")[2], inner[module.split(".", 3)[3]])
        writer.add_tensor(f"{target}.{part}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_old(folder, source):
    """As the first BERT checkpoints were: no prefix, gamma and beta."""
    folder.mkdir(exist_ok=True)
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        name = name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        tensors[name.replace("cls.predictions.bias", "cls.predictions.decoder.bias")] = tensor
    tensors["embeddings.position_ids"] = torch.arange(20).reshape(1, -1)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "encoders")
    for number, (name, (kind, values)) in enumerate(VARIANTS.items()):
        torch.manual_seed(number)
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        config = CONFIG_MAPPING[kind](**values, num_labels=LABELS)
        config._attn_implementation = "eager"
        tasks = ["CausalLM", "SequenceClassification", "TokenClassification"] if kind == "gpt2" else list(TASKS)
        batch = make_batch(kind, config)
        if kind == "gpt2":
            batch["words"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
        stored, expected = {}, dict(batch)
        for task in tasks:
            config.num_labels = 2 if task == "QuestionAnswering" else LABELS
            model = getattr(transformers, f"AutoModelFor{task}").from_config(config).eval()
            scramble(model)
            model.load_state_dict({k: v for k, v in stored.items() if k in model.state_dict() and v.shape == model.state_dict()[k].shape}, strict=False)
            for key, value in model.named_parameters():
                stored[key] = value.detach().clone()
            out = model(**inputs_of(batch, task, kind), output_hidden_states=True)
            loss = out.loss if task != "QuestionAnswering" else answer_loss(model, batch, kind)
            loss.backward()
            tag = TASKS.get(task, "CAUSAL_LM")
            expected[f"{tag}.logits"] = logits_of(out, task).detach().contiguous()
            expected[f"{tag}.loss"] = loss.detach().reshape(1)
            for key, value in model.named_parameters():
                expected[f"{tag}.grad.{key}"] = value.grad if value.grad is not None else torch.zeros_like(value)
            if task in ("MaskedLM", "CausalLM"):
                expected.update({f"hidden.{i}": h.detach().contiguous() for i, h in enumerate(out.hidden_states)})
            if task == "SequenceClassification":
                lora = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=TARGETS.get(kind, ["query", "output.dense"]), task_type="SEQ_CLS", fan_in_fan_out=kind == "gpt2",
                                                                  init_lora_weights=False))
                lora.eval()
                lora.zero_grad()
                adapter = {k.replace(".default", ""): v for k, v in lora.named_parameters() if v.requires_grad}
                out = lora(**inputs_of(batch, task, kind))
                out.loss.backward()
                expected["lora.loss"] = out.loss.detach().reshape(1)
                expected.update({f"lora.init.{k}": v.detach().clone() for k, v in adapter.items()})
                expected.update({f"lora.grad.{k}": v.grad for k, v in adapter.items()})
        config.num_labels = LABELS
        written = {**config.to_dict(), "architectures": [type(model).__name__]}
        (target / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
        save_file({k: v.contiguous() for k, v in stored.items()}, target / "model.safetensors")
        save_file({k: v.contiguous().clone() for k, v in expected.items()}, folder / f"{name}.expected.safetensors")
        if kind in ("bert", "roberta"):
            write_gguf(folder / f"{name}.gguf", config, stored, config.pad_token_id + 1 if kind == "roberta" else 0)
        if name == "gpt2":
            write_gpt2_gguf(folder / f"{name}.gguf", config, stored)
        if kind == "bert":
            write_old(folder / "bert-old", target)
        print(name, transformers.__version__, peft.__version__, sum(v.numel() for v in stored.values()))


main()
