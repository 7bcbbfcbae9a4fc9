"""Checks that includes only go to the same folder or up the list of docs/architecture.md, and that files open with a comment."""
import pathlib
import re
import sys

ORDER = ["base", "format", "text", "kernel", "graph", "model", "method", "train", "data", "recipe"]
top = pathlib.Path(__file__).resolve().parent.parent
lib = top / "lib"
problems = []
files = sorted(p for p in lib.rglob("*") if p.suffix in (".c", ".h", ".inc"))
if len(files) < 50:
    problems.append(f"only {len(files)} files found below {lib}")
for path in files:
    text = path.read_text(encoding="utf-8")
    here = path.relative_to(lib).parts[0]
    if not text.lstrip().startswith("/*"):
        problems.append(f"{path.relative_to(top)}: does not open with a comment that says what it is")
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not found:
            continue
        target = found.group(1)
        folder = target.split("/")[0]
        if folder == "peft" or "/" not in target:
            continue  # public headers; generated headers; files of the same folder
        if folder not in ORDER:
            problems.append(f"{path.relative_to(top)}:{number}: includes {target}, which is in no folder of lib/")
        elif ORDER.index(folder) > ORDER.index(here):
            problems.append(f"{path.relative_to(top)}:{number}: lib/{here} must not include {target}")
for folder in ("examples", "bindings"):
    for path in sorted((top / folder).rglob("*")):
        if path.suffix not in (".c", ".h", ".cpp"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if found and found.group(1).split("/")[0] in ORDER:
                problems.append(f"{path.relative_to(top)}:{number}: uses {found.group(1)}: only the public interface is allowed there")
print("\n".join(problems) if problems else f"{len(files)} files, all includes go the right way")
sys.exit(1 if problems else 0)
