#!/usr/bin/env python3
"""Writes the golden files of `tests/latent.rs`: outputs of diffusers' and transformers' networks of latent
diffusion.

    python make_latent.py [NAME...]

Weights and inputs are the functions of `../make.py`. Files hold the outputs, and as metadata the
configuration, the inputs that are no such functions, a digest of all tensor names and shapes, and the
versions used.
"""

import json
import math
import pathlib
import sys

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DiTTransformer2DModel,
    PriorTransformer,
    T2IAdapter,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from safetensors.numpy import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))
from make import fnv, sample, weight  # noqa: E402


def vae(widths, size, batch=1, **keys):
    n = len(widths)
    config = dict(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * n,
        up_block_types=["UpDecoderBlock2D"] * n,
        **keys,
    )
    c, s = config.get("latent_channels", 4), 2 ** (n - 1)
    shapes = {"sample": [batch, config.get("in_channels", 3), *size]}
    shapes["latents"] = [batch, c, size[0] // s, size[1] // s]
    return AutoencoderKL, config, shapes, {}


def tiny(widths, blocks, size, **keys):
    config = dict(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
        **keys,
    )
    s = 2 ** (len(widths) - 1)
    latents = [1, config.get("latent_channels", 4), size[0] // s, size[1] // s]
    return AutoencoderTiny, config, {"sample": [1, 3, *size], "latents": latents}, {}


def vq(widths, size, channels=3, **keys):
    _, config, shapes, _ = vae(widths, size, **keys)
    config.setdefault("latent_channels", 3)
    return VQModel, config, shapes | {"latents": [1, channels, *shapes["latents"][2:]]}, {}


def text(cls, ids, **keys):
    config = dict(vocab_size=50, max_position_embeddings=12, bos_token_id=48, eos_token_id=49) | keys
    return cls, config, {}, {"input_ids": ids}


def unet(shape, tokens, width, times, **keys):
    shapes = {"sample": shape, "encoder_hidden_states": [shape[0], tokens, width]}
    given = {"timestep": times}
    for name in ("class_labels", "time_ids"):
        if name in keys:
            given[name] = keys.pop(name)
    if "time_ids" in given:
        shapes["text_embeds"] = [shape[0], keys.pop("text_embeds")]
    if keys.get("class_embed_type") == "identity":
        shapes["class_labels"] = [shape[0], 4 * keys["block_out_channels"][0]]
        given |= {"lengths": keys.pop("lengths")} if "lengths" in keys else {}
    if keys.get("time_embedding_type") == "fourier":
        shapes["timestep_cond"] = [shape[0], keys["time_cond_proj_dim"]]
    return UNet2DConditionModel, dict(norm_num_groups=8, cross_attention_dim=width) | keys, shapes, given


def prior(rows, times, lengths, **keys):
    config = dict(num_attention_heads=2, attention_head_dim=12, num_layers=2, num_embeddings=7) | keys
    width = config["embedding_dim"]
    shapes = {"sample": [rows, width], "proj_embedding": [rows, config.get("embedding_proj_dim", width)]}
    shapes["encoder_hidden_states"] = [rows, 7, width]
    return PriorTransformer, config, shapes, {"timestep": times, "lengths": lengths}


def controlnet(shape, image, tokens, width, times, **keys):
    _, config, shapes, given = unet(shape, tokens, width, times, **keys)
    return ControlNetModel, config, shapes | {"controlnet_cond": image}, given


def adapter(image, **keys):
    return T2IAdapter, keys, {"sample": image}, {}


CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
ID_ROWS = [[48, 3, 7, 9, 49, 49, 49, 49, 49, 49, 49, 49], [48, 11, 49, 1, 1, 1, 1, 1, 1, 1, 1, 1]]

CASES = {
    "vae_sd1": vae([16, 32, 32, 32], (32, 32), layers_per_block=2, norm_num_groups=8, sample_size=64),
    "vae_sdxl": vae([16, 32, 64], (16, 24), 2, layers_per_block=1, norm_num_groups=16, scaling_factor=0.13025),
    "vae_flux": vae(
        [16, 32, 32],
        (24, 16),
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    "vae_sd3": vae(
        [16, 16, 32, 32],
        (16, 24),
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    # Of the upscaler by 4: latents are a quarter of the picture.
    "vae_upscaler": vae([16, 32, 32], (20, 16), layers_per_block=2, norm_num_groups=8, scaling_factor=0.08333),
    "vae_statistics": vae(
        [8, 16],
        (12, 8),
        2,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
        latents_mean=[-1.6574, 1.886, -1.383, 2.5155],
        latents_std=[8.4927, 5.9022, 6.5498, 5.2299],
    ),
    "vae_no_attention": vae(
        [8, 16],
        (12, 20),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=3,
        act_fn="relu",
        mid_block_add_attention=False,
        use_post_quant_conv=False,
    ),
    # In one direction, and no tile that the one before covers: there diffusers blends unevenly.
    "vae_tiled": vae([8, 16], (48, 24), layers_per_block=1, norm_num_groups=4, sample_size=32),
    # In both directions, where diffusers differs at the corners: it blends them with the square of the weight.
    "vae_tiled_2d": vae([8, 16], (36, 20), layers_per_block=1, norm_num_groups=4, sample_size=16),
    "tiny_sd": tiny([16, 16, 16, 16], [1, 2, 2, 2], (16, 24)),
    "tiny_sd3": tiny([24, 24, 24], [1, 1, 2], (12, 16), latent_channels=16),
    "vq_ldm": vq([8, 16, 16], (16, 24), layers_per_block=1, norm_num_groups=4, num_vq_embeddings=20),
    "vq_wide": vq(
        [8, 16],
        (12, 8),
        4,
        layers_per_block=2,
        norm_num_groups=4,
        num_vq_embeddings=7,
        latent_channels=6,
        vq_embed_dim=4,
        mid_block_add_attention=False,
    ),
    # The end of the text is the largest number where the configuration says 2.
    "text_clip_l": text(
        CLIPTextModel,
        ID_ROWS,
        eos_token_id=2,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
    ),
    "text_openclip_h": text(
        CLIPTextModel,
        ID_ROWS,
        hidden_size=40,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=5,
        hidden_act="gelu",
    ),
    "text_openclip_g": text(
        CLIPTextModelWithProjection,
        ID_ROWS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="gelu",
        projection_dim=24,
    ),
    "unet_sd1": unet(
        [2, 4, 16, 16],
        7,
        24,
        [3, 901],
        sample_size=16,
        block_out_channels=[16, 32, 32],
        down_block_types=[CROSS_DOWN, CROSS_DOWN, "DownBlock2D"],
        up_block_types=["UpBlock2D", CROSS_UP, CROSS_UP],
        layers_per_block=2,
        attention_head_dim=4,
    ),
    "unet_sd2": unet(
        [1, 4, 8, 16],
        5,
        32,
        [500],
        sample_size=8,
        block_out_channels=[16, 32, 64],
        down_block_types=[CROSS_DOWN, CROSS_DOWN, "DownBlock2D"],
        up_block_types=["UpBlock2D", CROSS_UP, CROSS_UP],
        layers_per_block=1,
        attention_head_dim=[1, 2, 4],
        use_linear_projection=True,
        upcast_attention=True,
    ),
    "unet_sdxl": unet(
        [2, 4, 8, 8],
        6,
        32,
        [10, 20],
        block_out_channels=[16, 32, 64],
        down_block_types=["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
        up_block_types=[CROSS_UP, CROSS_UP, "UpBlock2D"],
        layers_per_block=1,
        attention_head_dim=[2, 4, 8],
        transformer_layers_per_block=[1, 2, 3],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
        text_embeds=20,
        time_ids=[[1024, 1024, 0, 0, 1024, 1024], [512, 768, 16, 0, 1024, 640]],
    ),
    "unet_refiner": unet(
        [1, 4, 16, 16],
        6,
        16,
        [199],
        block_out_channels=[16, 32, 32, 32],
        down_block_types=["DownBlock2D", CROSS_DOWN, CROSS_DOWN, "DownBlock2D"],
        up_block_types=["UpBlock2D", CROSS_UP, CROSS_UP, "UpBlock2D"],
        layers_per_block=1,
        attention_head_dim=[2, 4, 8, 8],
        transformer_layers_per_block=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=5 * 8 + 16,
        text_embeds=16,
        time_ids=[[1024, 1024, 0, 0, 6]],
    ),
    "unet_inpaint": unet(
        [1, 9, 8, 8],
        4,
        16,
        [42],
        in_channels=9,
        block_out_channels=[16, 32],
        down_block_types=[CROSS_DOWN, "DownBlock2D"],
        up_block_types=["UpBlock2D", CROSS_UP],
        layers_per_block=2,
        attention_head_dim=8,
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
    ),
    "unet_upscaler": unet(
        [2, 7, 8, 8],
        4,
        16,
        [42, 7],
        in_channels=7,
        block_out_channels=[16, 32, 32],
        down_block_types=["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
        up_block_types=[CROSS_UP, CROSS_UP, "UpBlock2D"],
        only_cross_attention=[True, True, False],
        layers_per_block=1,
        attention_head_dim=8,
        use_linear_projection=True,
        num_class_embeds=50,
        class_labels=[20, 49],
    ),
    "unet_lists": unet(
        [1, 4, 8, 12],
        3,
        16,
        [640],
        block_out_channels=[16, 24],
        down_block_types=[CROSS_DOWN, CROSS_DOWN],
        up_block_types=[CROSS_UP, CROSS_UP],
        layers_per_block=[2, 1],
        attention_head_dim=[2, 3],
        transformer_layers_per_block=[2, 1],
        reverse_transformer_layers_per_block=[3, 1],
        mid_block_type=None,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="timestep",
        class_labels=[33],
        center_input_sample=True,
        act_fn="gelu",
        downsample_padding=0,
        time_embedding_dim=40,
    ),
    "unet_unclip": unet(
        [3, 3, 16, 16],
        7,
        20,
        [3, 901, 40],
        in_channels=3,
        out_channels=6,
        sample_size=16,
        block_out_channels=[16, 24, 32],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        layers_per_block=1,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        lengths=[4, 4, 7],
    ),
    "unet_only_cross": unet(
        [1, 4, 8, 8],
        5,
        16,
        [77],
        block_out_channels=[16, 32],
        down_block_types=["SimpleCrossAttnDownBlock2D", "DownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["UpBlock2D", "SimpleCrossAttnUpBlock2D"],
        only_cross_attention=True,
        layers_per_block=1,
        attention_head_dim=4,
        class_embed_type="identity",
    ),
    # Of the upscaler of latents.
    "unet_k": unet(
        [2, 8, 8, 16],
        5,
        24,
        [-0.7, 0.6],
        in_channels=8,
        out_channels=5,
        sample_size=16,
        block_out_channels=[32, 64, 64],
        down_block_types=["KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"],
        mid_block_type=None,
        up_block_types=["KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"],
        layers_per_block=2,
        attention_head_dim=[8, 16, 32],
        act_fn="gelu",
        norm_num_groups=None,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        time_cond_proj_dim=20,
        conv_in_kernel=1,
        conv_out_kernel=1,
    ),
    "unet_k_plain": unet(
        [1, 4, 4, 4],
        3,
        16,
        [0.3],
        block_out_channels=[64, 64],
        down_block_types=["KCrossAttnDownBlock2D", "KDownBlock2D"],
        mid_block_type=None,
        up_block_types=["KUpBlock2D", "KCrossAttnUpBlock2D"],
        layers_per_block=1,
        attention_head_dim=16,
        flip_sin_to_cos=False,
        time_embedding_type="fourier",
        time_cond_proj_dim=6,
    ),
    "prior": prior(2, [3, 901], [4, 7], embedding_dim=20),
    "prior_norms": prior(
        1,
        [500],
        [2],
        embedding_dim=24,
        embedding_proj_dim=10,
        time_embed_dim=32,
        norm_in_type="layer",
        embedding_proj_norm_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
        additional_embeddings=3,
    ),
    "projection": (
        UnCLIPTextProjModel,
        dict(clip_extra_context_tokens=3, clip_embeddings_dim=20, time_embed_dim=32, cross_attention_dim=12),
        {"image_embeddings": [2, 20], "prompt_embeds": [2, 20], "text_encoder_hidden_states": [2, 5, 20]},
        {},
    ),
    "vision": (
        CLIPVisionModelWithProjection,
        dict(
            hidden_size=24,
            intermediate_size=40,
            projection_dim=20,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=14,
            patch_size=4,
        ),
        {"pixel_values": [2, 3, 14, 14]},
        {},
    ),
    "controlnet_sd1": controlnet(
        [2, 4, 8, 8],
        [2, 3, 32, 32],
        5,
        24,
        [3, 901],
        block_out_channels=[16, 32],
        down_block_types=[CROSS_DOWN, "DownBlock2D"],
        layers_per_block=1,
        attention_head_dim=4,
        conditioning_embedding_out_channels=[4, 8, 12],
    ),
    "controlnet_sdxl": controlnet(
        [1, 4, 8, 4],
        [1, 3, 16, 8],
        6,
        32,
        [10],
        block_out_channels=[16, 32],
        down_block_types=["DownBlock2D", CROSS_DOWN],
        layers_per_block=2,
        attention_head_dim=[2, 4],
        transformer_layers_per_block=[1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
        text_embeds=20,
        time_ids=[[1024, 1024, 0, 0, 1024, 1024]],
        conditioning_embedding_out_channels=[6, 10],
        controlnet_conditioning_channel_order="bgr",
    ),
    "controlnet_pooled": controlnet(
        [1, 4, 4, 8],
        [1, 1, 4, 8],
        3,
        16,
        [640],
        block_out_channels=[16, 24],
        down_block_types=[CROSS_DOWN, CROSS_DOWN],
        layers_per_block=1,
        attention_head_dim=8,
        conditioning_channels=1,
        conditioning_embedding_out_channels=[8],
        global_pool_conditions=True,
    ),
    "adapter_full": adapter([1, 3, 24, 32], channels=[8, 16, 24], num_res_blocks=2, downscale_factor=4),
    "adapter_light": adapter([2, 1, 16, 16], in_channels=1, channels=[8, 16], num_res_blocks=2, downscale_factor=4, adapter_type="light_adapter"),
    "adapter_xl": adapter([1, 3, 24, 16], channels=[8, 16, 24, 24], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter_xl"),
    "dit": (
        DiTTransformer2DModel,
        dict(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        ),
        {"sample": [2, 4, 8, 8]},
        {"timestep": [0, 999], "class_labels": [3, 10]},
    ),
    "dit_patch_4": (
        DiTTransformer2DModel,
        dict(
            num_attention_heads=3,
            attention_head_dim=8,
            in_channels=3,
            num_layers=3,
            sample_size=16,
            patch_size=4,
            num_embeds_ada_norm=5,
            attention_bias=False,
            norm_eps=1e-6,
            activation_fn="gelu",
        ),
        {"sample": [1, 3, 16, 16]},
        {"timestep": [321], "class_labels": [0]},
    ),
}


def scaled(config, latents):
    """As the pipelines of Stable Diffusion 3 and XL make latents of pictures."""
    if config.latents_mean is not None:
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
        std = torch.tensor(config.latents_std).view(1, -1, 1, 1)
        return (latents - mean) * config.scaling_factor / std
    return (latents - config.shift_factor) * config.scaling_factor


def run(name, model, inputs, given):
    if isinstance(model, AutoencoderKL):
        posterior = model.encode(inputs["sample"]).latent_dist
        outputs = {"latent_mean": posterior.mean, "latent_logvar": posterior.logvar}
        if name == "vae_tiled":
            model.enable_tiling()
            return {"decoded_tiled": model.decode(inputs["latents"]).sample}
        if name == "vae_tiled_2d":
            model.enable_tiling()
            posterior = model.encode(inputs["sample"]).latent_dist
            tiled = {"latent_mean_tiled": posterior.mean, "latent_logvar_tiled": posterior.logvar}
            return tiled | {"decoded_tiled": model.decode(inputs["latents"]).sample}
        if name in ("vae_sd3", "vae_statistics"):
            outputs["latent_scaled"] = scaled(model.config, posterior.mean)
        return outputs | {"decoded": model.decode(inputs["latents"]).sample}
    if isinstance(model, (AutoencoderTiny, VQModel)):
        return {"latent_mean": model.encode(inputs["sample"]).latents, "decoded": model.decode(inputs["latents"]).sample}
    if isinstance(model, (CLIPTextModel, CLIPTextModelWithProjection)):
        out = model(torch.tensor(given["input_ids"]), output_hidden_states=True)
        pooled = {"pooler_output": out.pooler_output} if "pooler_output" in out else {"text_embeds": out.text_embeds}
        return {"last_hidden_state": out.last_hidden_state, "penultimate": out.hidden_states[-2]} | pooled
    if isinstance(model, T2IAdapter):
        return {f"map_{i}": x for i, x in enumerate(model(inputs["sample"]))}
    if isinstance(model, CLIPVisionModelWithProjection):
        return {"image_embeds": model(**inputs).image_embeds}
    if isinstance(model, UnCLIPTextProjModel):
        tokens, embedding = model(**inputs, do_classifier_free_guidance=False)
        return {"tokens": tokens, "embedding": embedding}
    times = torch.tensor(given["timestep"])
    mask = None
    if "lengths" in given:
        count = inputs["encoder_hidden_states"].shape[1]
        mask = torch.arange(count)[None] < torch.tensor(given["lengths"])[:, None]
    if isinstance(model, PriorTransformer):
        text = dict(proj_embedding=inputs["proj_embedding"], encoder_hidden_states=inputs["encoder_hidden_states"])
        out = model(inputs["sample"], times, **text, attention_mask=mask).predicted_image_embedding
        return {"sample": out.reshape(inputs["sample"].shape)}
    labels = torch.tensor(given["class_labels"]) if "class_labels" in given else inputs.get("class_labels")
    if isinstance(model, DiTTransformer2DModel):
        return {"sample": model(inputs["sample"], times, labels).sample}
    added = None
    if "time_ids" in given:
        added = {"text_embeds": inputs["text_embeds"], "time_ids": torch.tensor(given["time_ids"])}
    hidden = inputs["encoder_hidden_states"]
    if isinstance(model, ControlNetModel):
        out = model(inputs["sample"], times, hidden, inputs["controlnet_cond"], added_cond_kwargs=added)
        maps = [*out.down_block_res_samples, out.mid_block_res_sample]
        return {f"map_{i}": x for i, x in enumerate(maps)}
    more = dict(added_cond_kwargs=added, attention_mask=mask, timestep_cond=inputs.get("timestep_cond"))
    out = model(inputs["sample"], times, hidden, class_labels=labels, **more)
    return {"sample": out.sample}


def make(name):
    cls, config, shapes, given = CASES[name]
    is_vision = cls is CLIPVisionModelWithProjection
    is_clip = is_vision or cls in (CLIPTextModel, CLIPTextModelWithProjection)
    configuration = CLIPVisionConfig if is_vision else CLIPTextConfig
    model = (cls(configuration(**config)) if is_clip else cls(**config)).eval()
    # The text model alone has no prefix in recent versions, and had one in all published files.
    prefix = "text_model." if cls is CLIPTextModel else ""
    state = {k: list(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({k: weight(prefix + k, s) for k, s in state.items()})
    inputs = {k: sample(k, s) for k, s in shapes.items()}
    with torch.no_grad():
        outputs = {k: v.numpy().copy() for k, v in run(name, model, inputs, given).items()}
    assert all(np.isfinite(v).all() for v in outputs.values())
    listing = "".join(f"{prefix}{k} {json.dumps(s)}\n" for k, s in sorted(state.items()))
    class_key = "architectures" if is_clip else "_class_name"
    metadata = {
        "config": json.dumps({class_key: [cls.__name__] if is_clip else cls.__name__, **config}),
        "shapes": json.dumps(shapes),
        "given": json.dumps(given),
        "names": f"{fnv(listing):016x}",
        "versions": f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}",
    }
    save_file(outputs, HERE / f"{name}.safetensors", metadata)
    rms = {k: round(float(np.sqrt(np.mean(v.astype(np.float64) ** 2))), 3) for k, v in outputs.items()}
    print(f"{name}: {sum(math.prod(s) for s in state.values())} parameters, rms {rms}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    for case in sys.argv[1:] or CASES:
        make(case)
