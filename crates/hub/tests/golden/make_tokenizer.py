"""Writes tokenizer.json: what `tokenizers` learns from counted words, and how transformers' CLIPTokenizer
then reads texts. Made with tokenizers 0.23.3 and transformers 5.23.0.

    python make_tokenizer.py
"""

import json
import pathlib
import random
import tempfile

import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
SUFFIX = "</w>"
WORDS = """red blue green yellow heart hearts hearted face faces smiling smile smiles cat cats catfish woman man
men women astronaut running runner run walking walk circle square large small medium with eyes eye tears joy
arrow arrows left right down up-right o’clock thirty twelve café naïve 2 3 42 it's we're don't !? ... 日本 ✨
fireworks firework fire fighter firefighter light lighthouse house houses sunflower sun flower""".split()
TEXTS = [
    "",
    "red heart",
    "A Smiling CAT  with heart-eyes!",
    "woman astronaut, firefighter",
    "twelve o’clock; it's 42",
    "café naïve cafe\u0301 日本語 ✨✨",
    "<|startoftext|>sun<|endoftext|> unseen wørds\tzyx",
    "x" * 40,
]


def main():
    rng = random.Random(7)
    # Counts that differ keep pairs from being equally frequent.
    counts = {word: rng.randrange(3, 2000) for word in WORDS}
    clip = models.BPE(continuing_subword_prefix="", end_of_word_suffix=SUFFIX)
    tokenizer = tokenizers.Tokenizer(clip)
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
    )
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=2,
        initial_alphabet=alphabet,
        end_of_word_suffix=SUFFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator((word for word, n in counts.items() for _ in range(n)), trainer)
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]][:150]
    tokens = alphabet + [c + SUFFIX for c in alphabet]
    tokens += dict.fromkeys(a + b for a, b in merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        peer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        ids = [peer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    out = {
        "versions": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__},
        "counts": counts,
        "merges": [f"{a} {b}" for a, b in merges],
        "texts": TEXTS,
        "ids": ids,
    }
    (HERE / "tokenizer.json").write_text(json.dumps(out, ensure_ascii=False, indent=None) + "\n")


main()
