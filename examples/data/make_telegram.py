"""Makes telegram.txt: a part of Shakespeare as if it were wired. A change of style that shows after a minute of training.

    python3 make_telegram.py SHAKESPEARE.txt > telegram.txt
"""
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()[400_000:500_000]
text = text[text.index("\n\n") + 2 : text.rindex("\n\n") + 1]
text = re.sub(r"[.!?;]+(?=\s)", " STOP", text).upper()
text = re.sub(r"[,'\-]|:(?!\n)", "", text)
sys.stdout.write(text)
