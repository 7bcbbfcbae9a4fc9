"""Expected ids and labels of chat rows, by jinja2 and tokenizers: python make.py (both installed). Writes chat_expected.json beside it."""
import json
import pathlib

import jinja2
from tokenizers import Tokenizer

here = pathlib.Path(__file__).resolve().parent
tokenizer = Tokenizer.from_file(str(here.parent / "text" / "bbpe-smollm" / "tokenizer.json"))
chatml = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}")

ROWS = [
    {"messages": [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4"}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"},
                  {"role": "user", "content": "Naïve café — 日本語?"}, {"role": "assistant", "content": "Oui 😀\n\nfin"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}, {"role": "user", "content": "c"},
                  {"role": "assistant", "content": " d  "}]},
    {"conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "I am a test."}]},
    {"instruction": "Translate", "input": "chat", "output": "cat"},
    {"instruction": "Say nothing", "input": "", "output": "..."},
    {"prompt": "Q: 1+1\nA:", "completion": " 2"},
    {"prompt": "The ca", "completion": "t sat"},
]


def messages_of(row):
    if "messages" in row:
        return row["messages"]
    if "conversations" in row:
        return [{"role": {"human": "user", "gpt": "assistant"}[m["from"]], "content": m["value"]} for m in row["conversations"]]
    question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]


def expected(row):
    spans = []
    if "prompt" in row:
        text = row["prompt"] + row["completion"]
        spans.append((len(row["prompt"]), len(text)))
    else:
        messages = messages_of(row)
        text = ""
        for i, message in enumerate(messages):
            after = chatml.render(messages=messages[: i + 1])
            assert after.startswith(text)
            if message["role"] == "assistant" and message.get("train", True):
                end = len(after) - 1  # the line end after the mark belongs to the template
                begin = end - len(message["content"]) - len("<|im_end|>")
                spans.append((begin, end))
            text = after
    encoding = tokenizer.encode(text, add_special_tokens=False)
    labels = [i if any(b < e2 and e > b2 for b2, e2 in spans) else -100 for i, (b, e) in zip(encoding.ids, encoding.offsets)]
    ids = list(encoding.ids)
    if "prompt" in row:  # the end of a completion is learnt
        eos = tokenizer.token_to_id("<|endoftext|>")
        ids.append(eos)
        labels.append(eos)
    return {"row": row, "ids": ids, "labels": labels}


(here / "chat_expected.json").write_text(json.dumps([expected(row) for row in ROWS], ensure_ascii=False, indent=1) + "\n")
