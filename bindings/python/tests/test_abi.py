"""The classes of _abi.py against the headers: layout by compiling C, prototypes by counting arguments."""

import ctypes
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from libpeft import _abi

TOP = pathlib.Path(__file__).resolve().parents[3]
HEADERS = sorted((TOP / "include" / "peft").glob("*.h"))


def declarations():
    text = "\n".join(re.sub(r"/\*.*?\*/", " ", h.read_text(), flags=re.S) for h in HEADERS)
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for match in re.finditer(r"PEFT_API\s+([^;{]*?)(peft_\w+)\s*\(([^;]*)\)\s*;", text, flags=re.S):
        arguments = " ".join(match.group(3).split())
        yield match.group(2), 0 if arguments in ("void", "") else arguments.count(",") + 1, match.group(1)


def test_every_prototype_is_declared_with_as_many_arguments():
    declared = {name: (count, result) for name, count, result in declarations()}
    assert len(declared) > 50
    for name, (result, arguments) in _abi.PROTOTYPES.items():
        assert name in declared, name
        assert declared[name][0] == len(arguments), f"{name}: header {declared[name][0]}, table {len(arguments)}"
        is_void = re.search(r"\bvoid\s*$", declared[name][1]) is not None
        assert is_void == (result is None), name
    # What the binding does not wrap (yet) is listed, so that a new function is not forgotten by accident.
    missing = {name for name in declared if name not in _abi.PROTOTYPES and not name.startswith(("peft_recipe_", "peft_tensor_file_"))}
    assert missing <= {"peft_batch_from_padded", "peft_padded_init_sized", "peft_tokenizer_encode_pair"}, missing


def test_structures_have_the_layout_that_a_compiler_gives_them(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    lines = ['#include <peft/peft.h>', '#include <stddef.h>', '#include <stdio.h>', 'int main(void) { printf("{");']
    for i, (name, kind) in enumerate(_abi.STRUCTS.items()):
        lines.append(f'printf("%s\\"{name}\\": [%zu", "{", " if i else ""}", sizeof({name}));')
        for field in kind._fields_:
            lines.append(f'printf(", [\\"{field[0]}\\", %zu, %zu]", offsetof({name}, {field[0]}), sizeof((({name} *)0)->{field[0]}));')
        lines.append('printf("]");')
    lines.append('printf("}"); return 0; }')
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines))
    subprocess.run([compiler, "-I", str(TOP / "include"), str(source), "-o", str(tmp_path / "layout")], check=True)
    layout = json.loads(subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout)
    for name, kind in _abi.STRUCTS.items():
        size, *fields = layout[name]
        assert ctypes.sizeof(kind) == size, f"{name}: sizeof is {size} in C, {ctypes.sizeof(kind)} here"
        for field, offset, width in fields:
            descriptor = getattr(kind, field)
            assert (descriptor.offset, descriptor.size) == (offset, width), f"{name}.{field}"


def test_status_names():
    from libpeft._lib import lib

    for value, name in _abi.STATUS.items():
        assert lib.peft_status_name(value).decode() == name
