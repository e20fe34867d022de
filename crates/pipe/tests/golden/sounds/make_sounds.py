#!/usr/bin/env python3
"""Writes the golden files of `tests/sounds.rs`: what diffusers' pipelines of sounds make with small networks.

    python make_sounds.py [NAME...]

Weights are the functions of `../../../../models/tests/golden/make.py`, so that files hold no weights: only the sounds, and as
metadata the other files of the pipeline's folder, the names and shapes of all tensors of each component, the tokens of some
texts, and the versions used.
"""

import json
import pathlib
import random
import sys
import tempfile

import diffusers
import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from diffusers import (
    AudioLDMPipeline,
    AutoencoderKL,
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    DDIMScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from diffusers.schedulers import scheduling_cosine_dpmsolver_multistep
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE / "../../../../models/tests/golden"))
from make import sample, weight  # noqa: E402

# Constants that transformers stores.
CONSTANTS = ("position_ids", "token_type_ids")
WORDS = """rain rains raining on a roof roofs thunder in the distance dog dogs bark barks barking loudly birds bird sing
singing wind low quality noise noisy soft piano melody the of and with it's don't 2 12 3 café""".split()
TEXTS = [
    "",
    "rain on a roof",
    " Rain  on\ta roof,  it's 12:30!\n\nwind  ",
    "dogs' barking; café naïve 日本 ✨",
    "a</s>b<mask> c <s>",
    "the \ufb01sh, cafe\u0301 \uff21 \u00bd <extra_id_1> <pad>wind",
]


def roberta():
    """A tokenizer of 300 tokens."""
    rng = random.Random(7)
    counts = {f" {word}": rng.randrange(3, 2000) for word in WORDS}
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator((word for word, n in counts.items() for _ in range(n)), trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = model["vocab"] | {"<mask>": len(model["vocab"])}
    merges = [tuple(pair) for pair in model["merges"]]
    return RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=32)


def unigram():
    """A tokenizer of SentencePiece with a small table of letters."""
    rng = random.Random(11)
    lines = [" ".join(rng.choices(WORDS, k=rng.randrange(3, 9))) for _ in range(400)]
    with tempfile.TemporaryDirectory() as folder:
        # A ligature, a wide letter, a composed letter, a fraction, and a tab.
        rules = "FB01\t66 69\nFF21\t41\n65 301\tE9\nBD\t31 2F 32\n9\t20\n"
        (pathlib.Path(folder) / "rules.tsv").write_text(rules)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=f"{folder}/spiece",
            model_type="unigram",
            vocab_size=68,
            normalization_rule_tsv=f"{folder}/rules.tsv",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString((pathlib.Path(folder) / "spiece.model").read_bytes())
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    table = proto.normalizer_spec.precompiled_charsmap
    return T5Tokenizer(vocab=vocab, _spm_precompiled_charsmap=table, extra_ids=3, model_max_length=16)


def fill(module):
    """Gives a network its weights; their names and shapes."""
    state = {k: list(v.shape) for k, v in module.state_dict().items() if not k.endswith(CONSTANTS) and "embed_tokens" not in k}
    module.load_state_dict({k: weight(k, s) for k, s in state.items()}, strict=False)
    module.eval()
    return dict(sorted(state.items()))


def audio_ldm():
    tokenizer = roberta()
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=[16, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=8,
        latent_channels=4,
        scaling_factor=0.9,
    )
    clap = ClapTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=34,
        projection_dim=32,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[32, 64],
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=[32, 64],
        class_embed_type="simple_projection",
        class_embeddings_concat=True,
        projection_class_embeddings_input_dim=32,
    )
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=4000,
        upsample_initial_channel=16,
        upsample_rates=[5, 2, 4],
        upsample_kernel_sizes=[11, 4, 8],
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3], [1, 3]],
        normalize_before=False,
    )
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = AudioLDMPipeline(
        vae=vae,
        text_encoder=ClapTextModelWithProjection(clap),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        vocoder=SpeechT5HifiGan(vocoder),
    )
    prompts = ["rain on a roof", "dogs bark loudly in the distance"]
    negative = "low quality, noise"
    cases = {
        "guided": dict(audio_length_in_s=0.19, negative_prompt=negative, guidance_scale=2.5),
        "default": dict(guidance_scale=2.5),
        "unguided": dict(audio_length_in_s=0.08, guidance_scale=1.0),
    }
    shapes = {"guided": [2, 4, 10, 4], "default": [2, 4, 8, 4], "unguided": [2, 4, 4, 4]}

    def run(name, case):
        case = case | ({"negative_prompt": [case["negative_prompt"]] * 2} if "negative_prompt" in case else {})
        noise = sample(f"{name}.noise", shapes[name])
        return pipeline(prompts, num_inference_steps=4, latents=noise, output_type="np", **case).audios

    return pipeline, prompts, cases, shapes, run


class Still:
    """A Brownian path that does not move."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_):
        return torch.zeros(())


def stable_audio():
    scheduling_cosine_dpmsolver_multistep.BrownianTreeNoiseSampler = Still
    tokenizer = unigram()
    vae = AutoencoderOobleck(
        encoder_hidden_size=12,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=6,
        decoder_input_channels=6,
        audio_channels=2,
        sampling_rate=400,
    )
    t5 = T5Config(vocab_size=len(tokenizer), d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4)
    transformer = StableAudioDiTModel(
        sample_size=24,
        in_channels=6,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=6,
        cross_attention_dim=20,
        time_proj_dim=16,
        global_states_input_dim=36,
        cross_attention_input_dim=18,
    )
    projection = StableAudioProjectionModel(text_encoder_dim=24, conditioning_dim=18, min_value=0, max_value=2)
    pipeline = StableAudioPipeline(
        vae=vae,
        text_encoder=T5EncoderModel(t5),
        projection_model=projection,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=CosineDPMSolverMultistepScheduler(solver_order=2),
    )
    prompts = ["rain on a roof", "dogs bark loudly in the distance"]
    cases = {
        "guided": dict(audio_end_in_s=0.25, negative_prompt="low quality", guidance_scale=7.0),
        "default": dict(guidance_scale=4.0),
        "later": dict(audio_start_in_s=0.1, audio_end_in_s=0.35, guidance_scale=1.0),
    }

    def run(name, case):
        case = case | ({"negative_prompt": [case["negative_prompt"]] * 2} if "negative_prompt" in case else {})
        noise = sample(f"{name}.noise", [2, 6, 24])
        return pipeline(prompts, num_inference_steps=4, latents=noise, output_type="np", **case).audios

    return pipeline, prompts, cases, {name: [2, 6, 24] for name in cases}, run


PIPELINES = {"audio_ldm": audio_ldm, "stable_audio": stable_audio}


def make(name):
    torch.manual_seed(0)
    pipeline, prompts, cases, shapes, run = PIPELINES[name]()
    pipeline.set_progress_bar_config(disable=True)
    modules = {k: v for k, v in pipeline.components.items() if isinstance(v, torch.nn.Module)}
    names = {k: fill(v) for k, v in modules.items()}
    sounds = {k: run(k, case).astype(np.float32) for k, case in cases.items()}
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        paths = [p for p in sorted(pathlib.Path(folder).rglob("*")) if p.suffix in (".json", ".txt")]
        files = {str(p.relative_to(folder)): p.read_text() for p in paths}
    metadata = {
        "files": json.dumps(files),
        "names": json.dumps(names),
        "prompts": json.dumps(prompts),
        "cases": json.dumps(cases),
        "shapes": json.dumps(shapes),
        "texts": json.dumps(TEXTS),
        "ids": json.dumps([pipeline.tokenizer(text).input_ids for text in TEXTS]),
        "versions": f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        f"tokenizers {tokenizers.__version__}, torch {torch.__version__}",
    }
    save_file(sounds, HERE / f"{name}.safetensors", metadata)
    for key, value in sounds.items():
        print(f"{name}.{key}: {value.shape}, rms {np.sqrt(np.mean(value.astype(np.float64) ** 2)):.4f}")
    print(sorted(files))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or PIPELINES:
        make(case)
