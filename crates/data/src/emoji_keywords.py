"""Writes emoji_keywords.txt: each emoji's keywords in Unicode's Common Locale Data Repository (CLDR).

    npm pack cldr-annotations-full@48.2.0 && tar xzf cldr-annotations-full-48.2.0.tgz
    python3 emoji_keywords.py package/annotations/en/annotations.json

Emoji are written without U+FE0F. Flags and variants of skin are left out: their names say it all.
"""

import json
import pathlib
import sys

entries = json.load(open(sys.argv[1]))["annotations"]["annotations"]
lines = []
for emoji, entry in sorted(entries.items()):
    if max(map(ord, emoji)) < 0xA9 or "default" not in entry:
        continue
    name = entry["tts"][0].lower()
    words = [w.lower().strip() for w in entry["default"]]
    words = [w for w in dict.fromkeys(words) if w and w != name and "," not in w]
    if words:
        lines.append(f"{emoji}\t{','.join(words)}\n")
pathlib.Path(__file__).with_suffix(".txt").write_text("".join(lines))
