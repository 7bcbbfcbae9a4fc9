"""Makes an untrained T5 from a text, and the rows that teach it: a Unigram tokenizer of the text's words, random weights as T5 has them, and
rows of damaged sentences whose missing words are to be written (span corruption, Raffel et al. 2020).

    python3 make_tiny_t5.py TEXT FOLDER [--vocab 1000] [--width 64] [--layers 2] [--heads 4] [--mlp 192] [--rows 6000] [--seed 1]

TEXT has a sentence or a paragraph a line. FOLDER gets the model and rows.jsonl; `peft train examples/recipes/t5-pretrain.yaml` trains it.
Needs numpy and tokenizers.
"""
import argparse
import json
import pathlib
import random
import struct

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTINELS = 16


def tokenizer(lines, size):
    """As T5's: pieces begin with a blank, text ends with </s>, sentinels are the last ids and count down."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=size - SENTINELS, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                                            show_progress=False))
    made.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(SENTINELS))])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return made


def weights(rng, vocab, width, layers, heads, mlp):
    def normal(*shape, scale):
        return (rng.standard_normal(shape) * scale).astype(np.float32)
    inner, out = width, {"shared.weight": normal(vocab, width, scale=1.0)}
    for stack in ("encoder", "decoder"):
        for i in range(layers):
            parts = ["SelfAttention", "EncDecAttention"][:1 if stack == "encoder" else 2]
            for j, part in enumerate(parts):
                p = f"{stack}.block.{i}.layer.{j}."
                out[p + "layer_norm.weight"] = np.ones(width, np.float32)
                out[f"{p}{part}.q.weight"] = normal(inner, width, scale=(width * width / heads) ** -0.5)
                out[f"{p}{part}.k.weight"] = normal(inner, width, scale=width ** -0.5)
                out[f"{p}{part}.v.weight"] = normal(inner, width, scale=width ** -0.5)
                out[f"{p}{part}.o.weight"] = normal(width, inner, scale=inner ** -0.5)
            p = f"{stack}.block.{i}.layer.{len(parts)}."
            out[p + "layer_norm.weight"] = np.ones(width, np.float32)
            out[p + "DenseReluDense.wi.weight"] = normal(mlp, width, scale=width ** -0.5)
            out[p + "DenseReluDense.wo.weight"] = normal(width, mlp, scale=mlp ** -0.5)
        out[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = normal(32, heads, scale=width ** -0.5)
        out[f"{stack}.final_layer_norm.weight"] = np.ones(width, np.float32)
    return out


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(tensors[name].tobytes())


def damage(rng, line):
    """Spans of one to four words, about 15 % of all, go from the text to the answer; a sentinel stands for each."""
    words, question, answer, hidden, at = line.split()[:60], [], [], 0, 0
    while at < len(words):
        if hidden < SENTINELS and rng.random() < 0.07 or (at + 1 == len(words) and not hidden):
            span = min(rng.randint(1, 4), len(words) - at)
            question.append(f"<extra_id_{hidden}>")
            answer += [f"<extra_id_{hidden}>", *words[at:at + span]]
            hidden, at = hidden + 1, at + span
        else:
            question.append(words[at])
            at += 1
    return {"prompt": " ".join(question), "completion": " ".join(answer)}


def make(lines, folder, vocab=1000, width=64, layers=2, heads=4, mlp=192, seed=1):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer(lines, vocab)
    made.save(str(folder / "tokenizer.json"))
    vocab = made.get_vocab_size()
    write_safetensors(folder / "model.safetensors", weights(np.random.default_rng(seed), vocab, width, layers, heads, mlp))
    config = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": width, "d_ff": mlp, "d_kv": width // heads,
              "num_heads": heads, "num_layers": layers, "num_decoder_layers": layers, "vocab_size": vocab, "feed_forward_proj": "relu",
              "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "tie_word_embeddings": True, "layer_norm_epsilon": 1e-06,
              "dropout_rate": 0.0, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "is_encoder_decoder": True}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "T5TokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("folder")
    for name, value in (("vocab", 1000), ("width", 64), ("layers", 2), ("heads", 4), ("mlp", 192), ("rows", 6000), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    lines = [line.strip() for line in open(args.text, encoding="utf-8") if len(line.split()) > 3]
    make(lines, args.folder, args.vocab, args.width, args.layers, args.heads, args.mlp, args.seed)
    rng = random.Random(args.seed)
    with open(pathlib.Path(args.folder) / "rows.jsonl", "w", encoding="utf-8") as file:
        for i in range(args.rows):
            file.write(json.dumps(damage(rng, lines[i % len(lines)])) + "\n")


if __name__ == "__main__":
    main()
