#!/usr/bin/env python3
"""Writes added_tokens.json: how transformers' CLIPTokenizer reads texts where tokens were added to it, by each of the
places in which they are kept.

    python make_added_tokens.py

Made with transformers 5.24.0. `files` are the files of a case besides `vocab.json` and `merges.txt`; a case with a
`tokenizer.json` has that alone.
"""

import json
import pathlib
import shutil
import tempfile

import transformers
from transformers import AddedToken, CLIPTokenizer

HERE = pathlib.Path(__file__).parent
SOURCE = HERE.parents[2] / "pipe/tests/golden/latent/tokenizer_files"
TEXTS = [
    "a <cat-toy> cat",
    "<cat-toy>!",
    "A <CAT-TOY>cat, <Cat-Toy>",
    "cat! the hat !",
    "a<cat-toy>hat",
    "the  <cat-toy>  hat",
    "<cat-toy> <cat-toy>_1 <cat-toy-two>",
    "<|startoftext|>cat<|endoftext|>",
    "hat _x_ hat_x_",
    "É <É> <é>",
]


def flags(content, **changed):
    plain = dict(content=content, lstrip=False, rstrip=False, normalized=True, single_word=False, special=False)
    return {**plain, **changed}


def main():
    vocabulary = json.loads((SOURCE / "vocab.json").read_text())
    n = len(vocabulary)
    several = {str(n): flags("<cat-toy>"), str(n + 1): flags("<cat-toy>_1"), str(n + 2): flags("<cat-toy-two>")}
    cases = {
        "nothing": {},
        "added_tokens": {"added_tokens": {"<cat-toy>": n, "<cat-toy>_1": n + 1, "<É>": n + 2}},
        "decoder": {"tokenizer_config": {"tokenizer_class": "CLIPTokenizer", "added_tokens_decoder": several}},
        "exact": {"tokenizer_config": {"added_tokens_decoder": {str(n): flags("<Cat-Toy>", normalized=False)}}},
        "strips": {
            "tokenizer_config": {
                "added_tokens_decoder": {
                    str(n): flags("<cat-toy>", lstrip=True, rstrip=True),
                    str(n + 1): flags("_x_", single_word=True),
                }
            }
        },
        "special": {"special_tokens_map": {"additional_special_tokens": ["<cat-toy>"]}},
        "extra": {"tokenizer_config": {"extra_special_tokens": ["<cat-toy>"]}},
        "pad_in_map": {"special_tokens_map": {"pad_token": "!"}},
        "pad_with_flags": {"special_tokens_map": {"pad_token": flags("!", normalized=False, special=True)}},
        "pad_and_added": {"special_tokens_map": {"pad_token": "!"}, "added_tokens": {"<cat-toy>": n}},
    }
    out = []
    for name, files in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for file in ("vocab.json", "merges.txt"):
                shutil.copy(SOURCE / file, folder / file)
            for file, value in files.items():
                (folder / f"{file}.json").write_text(json.dumps(value))
            out.append(read(name, files, CLIPTokenizer.from_pretrained(folder)))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(SOURCE / file, folder / file)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<cat-toy>", AddedToken("<Cat-Toy>", normalized=False)])
        tokenizer.save_pretrained(folder / "saved")
        saved = {p.stem: json.loads(p.read_text()) for p in (folder / "saved").glob("*.json")}
        # What the case needs of it.
        saved["tokenizer"] = {"added_tokens": saved["tokenizer"]["added_tokens"]}
        out.append(read("saved", saved, CLIPTokenizer.from_pretrained(folder / "saved")))
    data = {"versions": f"transformers {transformers.__version__}", "texts": TEXTS, "cases": out}
    (HERE / "added_tokens.json").write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def read(name, files, tokenizer):
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    return {"name": name, "files": files, "pad": tokenizer.pad_token_id, "bound": len(tokenizer), "ids": ids}


main()
