#!/usr/bin/env python3
"""Writes the golden folders `unclip` and `variation`: diffusers' UnCLIPPipeline, DALL·E 2's cascade, and
UnCLIPImageVariationPipeline, with small networks.

    python make_unclip.py

A folder is like those of `make_latent_pipelines.py`. Weights of the network for the last step have the prefix `last.`
in their names. All noise is a function of the stage and the number of the draw. The schedulers' tables are in double
precision: in single precision the weights of the last step are off by 5e-4.
"""

import json
import math
import shutil

import diffusers
import diffusers.pipelines.deprecated.unclip.pipeline_unclip as pipeline_module
import diffusers.pipelines.deprecated.unclip.pipeline_unclip_image_variation as variation_module
import diffusers.schedulers.scheduling_unclip as scheduler_module
import numpy as np
import torch
import transformers
from diffusers import (
    PriorTransformer,
    UnCLIPImageVariationPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from make_latent_pipelines import HERE, TOKENIZER, filled, picture, sample, text
from safetensors.numpy import save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

WIDTH, COUNT = 24, 2
NORMS = dict(norm_num_groups=8, resnet_time_scale_shift="scale_shift")


def enlarger(prefix):
    net = UNet2DModel(
        sample_size=16,
        in_channels=6,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=[16, 32],
        down_block_types=["ResnetDownsampleBlock2D"] * 2,
        up_block_types=["ResnetUpsampleBlock2D"] * 2,
        add_attention=False,
        **NORMS,
    )
    return filled(net, prefix)


def build():
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=WIDTH, num_embeddings=77
    )
    decoder = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=[16, 32],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        cross_attention_dim=20,
        attention_head_dim=8,
        class_embed_type="identity",
        **NORMS,
    )
    projection = UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=64, cross_attention_dim=20)
    small_variance = dict(variance_type="fixed_small_log", num_train_timesteps=1000)
    return UnCLIPPipeline(
        prior=filled(prior),
        decoder=filled(decoder),
        text_encoder=text(WIDTH, CLIPTextModelWithProjection, projection_dim=WIDTH),
        tokenizer=TOKENIZER,
        text_proj=filled(projection),
        super_res_first=enlarger(""),
        super_res_last=enlarger("last."),
        prior_scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0, **small_variance),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range", num_train_timesteps=1000),
        super_res_scheduler=UnCLIPScheduler(**small_variance),
    )


def stage_of(shape):
    return "prior" if len(shape) == 2 else {8: "decoder", 16: "enlarger"}[shape[-1]]


draws = {"prior": 0, "decoder": 0, "enlarger": 0}


def initial(shape, **_):
    return sample(f"{stage_of(shape)} start", list(shape))


def fresh(shape, **_):
    stage = stage_of(shape)
    draws[stage] += 1
    return sample(f"{stage} {draws[stage] - 1}", list(shape))


def in_double_precision(scheduler):
    bar = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    betas = [min(1 - after / before, 0.999) for before, after in zip(bar, bar[1:])]
    scheduler.betas = torch.tensor(betas, dtype=torch.float64)
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)


def vary(pipe):
    """The same decoder for the embedding of an image."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    parts = {name: part for name, part in pipe.components.items() if not name.startswith("prior")}
    return UnCLIPImageVariationPipeline(
        image_encoder=filled(CLIPVisionModelWithProjection(config)),
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 9}, crop_size={"height": 8, "width": 8}
        ),
        **parts,
    )


def write(name, pipe, request, call):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    shutil.rmtree(folder / "tokenizer")
    for module in (pipeline_module, variation_module):
        module.randn_tensor = initial
    scheduler_module.randn_tensor = fresh
    draws.update(prior=0, decoder=0, enlarger=0)
    step = type(pipe.super_res_scheduler).step
    seen = []

    def watched(*given, **more):
        result = step(pipe.super_res_scheduler, *given, **more)
        seen.append(result.prev_sample)
        return result

    pipe.super_res_scheduler.step = watched
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        call()
    out = np.ascontiguousarray(seen[-1].numpy())
    assert np.isfinite(out).all() and len(seen) == 7
    metadata = dict(
        request=json.dumps(dict(count=COUNT, **request)),
        latents=json.dumps([COUNT, 3, 8, 8]),
        versions=f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
    )
    save_file({"pictures": out}, folder / "answer.safetensors", metadata)
    print(name, out.shape, float(np.sqrt(np.mean(out**2))), draws)


def main():
    pipe = build()
    for scheduler in (pipe.prior_scheduler, pipe.decoder_scheduler, pipe.super_res_scheduler):
        in_double_precision(scheduler)
    common = dict(num_images_per_prompt=COUNT, super_res_num_inference_steps=7)
    request = dict(prompt="red hat on the cat", guidance=3.0, steps=6, prior_steps=5, prior_guidance=2.0)
    more = dict(
        prior_num_inference_steps=request["prior_steps"],
        decoder_num_inference_steps=request["steps"],
        prior_guidance_scale=request["prior_guidance"],
        decoder_guidance_scale=request["guidance"],
    )
    write("unclip", pipe, request, lambda: pipe(request["prompt"], **common, **more))
    variation = vary(pipe)
    of_image = dict(guidance=4.0, steps=5)
    more = dict(decoder_num_inference_steps=5, decoder_guidance_scale=4.0)
    write("variation", variation, of_image, lambda: variation(picture(16), **common, **more))


if __name__ == "__main__":
    main()
