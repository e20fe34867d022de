#!/usr/bin/env python3
"""Writes the golden folders of `tests/latent.rs`: whole pipelines of diffusers with small networks.

    python make_latent_pipelines.py [NAME...]

A folder holds the pipeline's configurations as diffusers saves them, without weights, which are the functions
of `crates/models/tests/golden/make.py`, and without CLIP's tokenizer, which all share; and `answer.safetensors`:
the decoded pictures, not clamped, with the request as metadata. Initial latents are such a function too.
"""

import json
import pathlib
import shutil
import sys
import types

import diffusers
import diffusers.pipelines.controlnet.pipeline_controlnet_img2img as control_img2img_module
import diffusers.pipelines.controlnet.pipeline_controlnet_inpaint as control_inpaint_module
import diffusers.pipelines.deprecated.latent_diffusion_uncond.pipeline_latent_diffusion_uncond as ldm_module
import diffusers.pipelines.dit.pipeline_dit as dit_module
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img as img2img_module
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint as inpaint_module
import diffusers.models.autoencoders.vae as vae_module
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale as upscale_module
import diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution as ldm_upscale_module
import diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img as sdxl_img2img_module
import diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint as sdxl_inpaint_module
import diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion as svd_module
import diffusers.pipelines.wan.pipeline_wan_i2v as wan_image_module
import numpy as np
import torch
import transformers
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LDMPipeline,
    LDMSuperResolutionPipeline,
    MotionAdapter,
    MultiAdapter,
    PNDMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
    T2IAdapter,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    VQModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.numpy import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parents[3] / "models/tests/golden"))
from make import sample, weight  # noqa: E402

CORPUS = "a photo of the cat smiling with red hat and small blue house on hills under clouds it's 42 don't ".split()
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def letters():
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]


def write_tokenizer():
    """Merges that spell the words of CORPUS from the left, in both of the forms that files have."""
    merges, tokens = [], letters() + [c + "</w>" for c in letters()]
    for word in CORPUS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair, parts = (parts[0], parts[1]), [parts[0] + parts[1], *parts[2:]]
            if pair not in merges:
                merges.append(pair)
                tokens.append(parts[0])
    vocab = {t: i for i, t in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    for folder in ("tokenizer", "tokenizer_files"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
    tokenizer.save_pretrained(HERE / "tokenizer")
    files = HERE / "tokenizer_files"
    files.mkdir()
    (files / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (files / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (files / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    texts = [
        "a photo of the cat",
        "A   Photo\tof\nthe CAT, smiling!",
        "it's 42 hats; don't",
        "naïve café — ÅNGSTRÖM 東京 🙂",
        "e\u0301 \u212b",
        "hatred housecat catcatcat",
        "<|startoftext|> cat <|endoftext|>",
        "",
        "ΑΣ ΟΔΟΣ",
        "x²½ ٣٤",
    ]
    ids = [tokenizer(t)["input_ids"] for t in texts]
    # Where `!` fills texts up, it is no word of them.
    padded = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token="!")
    data = {"texts": texts, "input_ids": ids, "padded_ids": [padded(t)["input_ids"] for t in texts], "versions": f"transformers {transformers.__version__}"}
    (HERE / "tokens.json").write_text(json.dumps(data, indent=1))
    return tokenizer, padded, len(vocab)


TOKENIZER, PADDED, VOCABULARY = write_tokenizer()


def filled(model, prefix=""):
    state = {k: list(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({k: weight(prefix + k, s) for k, s in state.items()})
    return model.eval()


def text(width, cls=CLIPTextModel, **keys):
    ends = dict(bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1, pad_token_id=0)
    sizes = dict(hidden_size=width, intermediate_size=2 * width, num_attention_heads=2, num_hidden_layers=3)
    model = cls(CLIPTextConfig(vocab_size=VOCABULARY, **ends, **sizes, **keys))
    return filled(model, "text_model." if cls is CLIPTextModel else "")


def vae(**keys):
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    sizes = dict(block_out_channels=[8, 16], norm_num_groups=4, sample_size=16)
    return filled(AutoencoderKL(**blocks, **sizes, **keys))


def unet(width, **keys):
    config = dict(
        sample_size=8,
        block_out_channels=[16, 32],
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=width,
    )
    return filled(UNet2DConditionModel(**(config | keys)))


def sd(unet, vae, scheduler, text, cls=StableDiffusionPipeline):
    return cls(
        vae=vae,
        text_encoder=text,
        tokenizer=TOKENIZER,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd1():
    scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    pipe = sd(unet(24), vae(), scheduler, text(24))
    request = dict(prompt="a photo of the cat", negative_prompt="red hat", guidance=7.5, guidance_rescale=0.7, steps=6)
    return pipe, request, [2, 4, 8, 8]


def sd2():
    scheduler = DPMSolverMultistepScheduler(**BETAS, prediction_type="v_prediction")
    net = unet(32, use_linear_projection=True, attention_head_dim=[2, 4])
    pipe = sd(net, vae(shift_factor=None, scaling_factor=0.13), scheduler, text(32, hidden_act="gelu"))
    request = dict(prompt="Small blue house on hills, it's 42", guidance=1.0, clip_skip=1, steps=5, size=[16, 24])
    return pipe, request, [1, 4, 8, 12]


def sdxl(tokenizer_2=TOKENIZER):
    net = unet(
        40,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    second = text(24, CLIPTextModelWithProjection, projection_dim=12, hidden_act="gelu")
    pipe = StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025),
        text_encoder=text(16),
        text_encoder_2=second,
        tokenizer=TOKENIZER,
        tokenizer_2=tokenizer_2,
        unet=net,
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )
    return pipe, dict(prompt="the cat under clouds", guidance=5.0, steps=5), [2, 4, 8, 8]


def sdxl_skip():
    """`clip_skip` beside a negative prompt, and a second tokenizer that fills texts up with `!`."""
    pipe, _, shape = sdxl(PADDED)
    request = dict(prompt="the cat! under clouds", negative_prompt="red hat!", clip_skip=1, guidance=5.0, steps=4)
    return pipe, request, shape


def distilled():
    """A network that is told the scale of the guidance."""
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipe = sd(unet(24, time_cond_proj_dim=14), vae(), scheduler, text(24))
    return pipe, dict(prompt="a photo of the cat", guidance=8.0, steps=4), [2, 4, 8, 8]


def img2img():
    tiny = dict(num_encoder_blocks=[1, 1], num_decoder_blocks=[1, 1])
    widths = dict(encoder_block_out_channels=[8, 8], decoder_block_out_channels=[8, 8])
    net = unet(24)
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    coder = filled(AutoencoderTiny(**tiny, **widths))
    # The class counts the stages of AutoencoderKL, which this configuration lists by another name.
    pipe = sd(net, coder, scheduler, text(24), StableDiffusionImg2ImgPipeline)
    pipe.vae_scale_factor = 2
    request = dict(prompt="red hat on the cat", negative_prompt="", guidance=3.0, strength=0.65, steps=10)
    return pipe, request, [1, 4, 8, 8]


def inpaint():
    """A network that also gets the mask and the latents of what is known: here the mean of their distribution, not a sample."""
    net = unet(24, in_channels=9)
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipe = sd(net, vae(), scheduler, text(24), StableDiffusionInpaintPipeline)
    request = dict(prompt="red hat on the cat", negative_prompt="", guidance=3.0, steps=5)
    return pipe, request, [2, 4, 8, 8]


def sdxl_inpaint():
    pipe, _, shape = sdxl()
    parts = {name: part for name, part in pipe.components.items() if name not in ("feature_extractor", "image_encoder")}
    parts["unet"] = unet(
        40,
        in_channels=9,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    pipe = StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    return pipe, dict(prompt="the cat under clouds", negative_prompt="hat", guidance=6.0, steps=4), shape


def refiner(coder=None):
    """It reads an aesthetic score, and has only the second text encoder."""
    tiny = dict(num_encoder_blocks=[1, 1], num_decoder_blocks=[1, 1])
    widths = dict(encoder_block_out_channels=[8, 8], decoder_block_out_channels=[8, 8])
    net = unet(
        24,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 1],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=5 * 8 + 12,
    )
    pipe = StableDiffusionXLImg2ImgPipeline(
        vae=coder or filled(AutoencoderTiny(**tiny, **widths)),
        text_encoder=None,
        text_encoder_2=text(24, CLIPTextModelWithProjection, projection_dim=12, hidden_act="gelu"),
        tokenizer=None,
        tokenizer_2=TOKENIZER,
        unet=net,
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    # The class counts the stages of AutoencoderKL, which this configuration lists by another name.
    pipe.vae_scale_factor = 2
    request = dict(prompt="the cat under clouds", negative_prompt="hat", guidance=5.0, strength=0.6, steps=6)
    return pipe, dict(request, aesthetic_score=7.0, negative_aesthetic_score=3.0), [1, 4, 8, 8]


def refined():
    """The last steps of SDXL by its refiner: `refiner` is the folder of the latter, `sdxl` that of the former."""
    pipe, _, shape = sdxl()
    request = dict(prompt="the cat under clouds", negative_prompt="hat", guidance=5.0, steps=10, refine_from=0.6)
    return pipe, dict(request, aesthetic_score=6.5), shape


def ldm_upscale():
    net = UNet2DModel(
        sample_size=16,
        in_channels=6,
        out_channels=3,
        block_out_channels=[16, 32],
        down_block_types=["DownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        norm_num_groups=8,
    )
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    coder = VQModel(**blocks, block_out_channels=[8, 16], norm_num_groups=4, num_vq_embeddings=40)
    scheduler = DDIMScheduler(**BETAS, clip_sample=False)
    return LDMSuperResolutionPipeline(vqvae=filled(coder), unet=filled(net), scheduler=scheduler), dict(steps=6), [1, 3, 32, 32]


def upscale():
    """A network that also gets a small image with noise, and the level of the noise as class."""
    net = unet(24, in_channels=7, num_class_embeds=1000)
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction")
    pipe = StableDiffusionUpscalePipeline(
        vae=vae(),
        text_encoder=text(24),
        tokenizer=TOKENIZER,
        unet=net,
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=1000),
        scheduler=scheduler,
        max_noise_level=350,
    )
    request = dict(prompt="red hat on the cat", negative_prompt="small", guidance=9.0, steps=5, noise_level=50)
    return pipe, request, [1, 4, 8, 8]


def latent_upscale():
    """A network that also gets the latents of a small image, and the pooled text with the time."""
    net = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=5,
        block_out_channels=[32, 64, 64],
        down_block_types=["KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"],
        mid_block_type=None,
        up_block_types=["KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"],
        layers_per_block=1,
        attention_head_dim=16,
        cross_attention_dim=24,
        act_fn="gelu",
        norm_num_groups=None,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        time_cond_proj_dim=128 + 24,
        conv_in_kernel=1,
        conv_out_kernel=1,
    )
    pipe = StableDiffusionLatentUpscalePipeline(
        vae=vae(),
        text_encoder=text(24),
        tokenizer=TOKENIZER,
        unet=filled(net),
        scheduler=EulerDiscreteScheduler(**BETAS, prediction_type="sample"),
    )
    return pipe, dict(prompt="red hat on the cat", negative_prompt="small", guidance=4.0, steps=6), [1, 4, 16, 16]


def control(unet, **keys):
    """A ControlNet for a network. Those of one folder have the weights of one formula, so they differ in their layers."""
    names = ("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "norm_num_groups")
    names += ("attention_head_dim", "cross_attention_dim", "use_linear_projection", "addition_embed_type")
    names += ("addition_time_embed_dim", "projection_class_embeddings_input_dim", "transformer_layers_per_block")
    config = {name: unet.config[name] for name in names} | dict(conditioning_embedding_out_channels=[4, 8])
    return filled(ControlNetModel(**(config | keys)))


def controlled(pipe, nets, cls, controls, **keys):
    parts = {name: part for name, part in pipe.components.items() if name not in ("feature_extractor", "image_encoder")}
    nets = nets[0] if len(nets) == 1 else nets
    paths = [dict(image=dict(path=f"control-{i}.png"), **one) for i, one in enumerate(controls)]
    xl = dict(add_watermarker=False) if "XL" in cls.__name__ else dict(requires_safety_checker=False)
    if "XL" not in cls.__name__:
        parts |= dict(feature_extractor=None)
    return cls(controlnet=nets, **parts, **xl), paths


def controlnet():
    pipe, request, shape = sd1()
    controls = [dict(scale=0.8, range=[0.2, 0.9])]
    pipe, controls = controlled(pipe, [control(pipe.unet)], StableDiffusionControlNetPipeline, controls)
    pipe.scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return pipe, dict(prompt="a photo of the cat", negative_prompt="red hat", guidance=7.5, steps=6, controls=controls), shape


def controlnets_guess():
    pipe, _, shape = sd2()
    nets = [control(pipe.unet), control(pipe.unet, conditioning_embedding_out_channels=[6, 4])]
    controls = [dict(scale=0.7), dict(scale=1.5, range=[0.0, 0.6])]
    pipe, controls = controlled(pipe, nets, StableDiffusionControlNetPipeline, controls)
    request = dict(prompt="Small blue house", negative_prompt="", guidance=4.0, steps=5, size=[16, 24])
    return pipe, dict(request, controls=controls, guess=True), shape


def controlnet_sdxl():
    pipe, _, shape = sdxl()
    net = control(pipe.unet, controlnet_conditioning_channel_order="bgr")
    pipe, controls = controlled(pipe, [net], StableDiffusionXLControlNetPipeline, [dict(scale=0.5)])
    return pipe, dict(prompt="the cat under clouds", guidance=5.0, steps=5, controls=controls), shape


def controlnet_img2img():
    pipe, request, shape = img2img()
    controls = [dict(range=[0.1, 0.7])]
    pipe, controls = controlled(pipe, [control(pipe.unet)], StableDiffusionControlNetImg2ImgPipeline, controls)
    pipe.vae_scale_factor = 2
    return pipe, dict(request, controls=controls), shape


def controlnet_inpaint():
    pipe, request, shape = inpaint()
    net = control(pipe.unet, in_channels=4)
    pipe, controls = controlled(pipe, [net], StableDiffusionControlNetInpaintPipeline, [dict(scale=0.9)])
    return pipe, dict(request, controls=controls), shape


def adapted(pipe, adapter, cls, controls):
    parts = {name: part for name, part in pipe.components.items() if name not in ("feature_extractor", "image_encoder")}
    xl = "XL" in cls.__name__
    more = {} if xl else dict(feature_extractor=None, requires_safety_checker=False)
    return cls(adapter=adapter, **parts, **more), [dict(image=dict(path=f"control-{i}.png"), **one) for i, one in enumerate(controls)]


def t2i():
    """The network of `sd1`, whose last block adds what its adapter gives to a skip connection, too."""
    pipe, request, shape = sd1()
    net = filled(T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=2))
    pipe, controls = adapted(pipe, net, StableDiffusionAdapterPipeline, [dict(scale=0.8)])
    return pipe, dict(prompt="a photo of the cat", negative_prompt="red hat", guidance=7.5, steps=6, controls=controls), shape


def t2i_pair():
    """Two adapters, a light one with an output more than it lists."""
    pipe, _, shape = sd2()
    light = T2IAdapter(channels=[16], num_res_blocks=2, downscale_factor=2, adapter_type="light_adapter")
    pipe.unet = unet(32, block_out_channels=[16, 16], use_linear_projection=True, attention_head_dim=[2, 4])
    full = T2IAdapter(channels=[16, 16], num_res_blocks=1, downscale_factor=2)
    both = MultiAdapter([filled(light), filled(full)])
    pipe, controls = adapted(pipe, both, StableDiffusionAdapterPipeline, [dict(scale=0.7), dict(scale=-0.4)])
    return pipe, dict(prompt="Small blue house", guidance=1.0, steps=5, size=[16, 24], controls=controls), shape


def t2i_sdxl():
    """It acts in the first part of the steps, in a block that halves the resolution before it adds, and in the middle block."""
    pipe, _, shape = sdxl()
    pipe.unet = unet(
        40,
        block_out_channels=[16, 32, 32],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    widths = [16, 32, 32, 32]
    net = filled(T2IAdapter(channels=widths, num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl"))
    pipe, controls = adapted(pipe, net, StableDiffusionXLAdapterPipeline, [dict(scale=0.5, range=[0.0, 0.6])])
    return pipe, dict(prompt="the cat under clouds", guidance=5.0, steps=5, controls=controls), shape


def dit():
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    pipe = DiTPipeline(transformer=filled(net), vae=vae(), scheduler=scheduler)
    return pipe, dict(classes=[2, 1], guidance=4.0, steps=5), [2, 4, 8, 8]


def ldm():
    net = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=[16, 32],
        down_block_types=["DownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(**BETAS, clip_sample=False)
    return LDMPipeline(vqvae=vae(), unet=filled(net), scheduler=scheduler), dict(steps=7), [2, 4, 8, 8]


def video():
    """Three frames that are not square, with the autoencoder of images."""
    net = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=[16, 32],
        down_block_types=["CrossAttnDownBlock3D", "DownBlock3D"],
        up_block_types=["UpBlock3D", "CrossAttnUpBlock3D"],
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=24,
    )
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    parts = dict(vae=vae(), text_encoder=text(24), tokenizer=TOKENIZER, unet=filled(net), scheduler=scheduler)
    request = dict(prompt="the cat smiling", negative_prompt="red hat", guidance=9.0, steps=5, frames=3, size=[16, 24])
    return TextToVideoSDPipeline(**parts), request, [2, 4, 3, 8, 12]


def motion():
    """The network of `sd1` with a motion adapter, whose folder is written beside the parts of the pipeline."""
    adapter = MotionAdapter(
        block_out_channels=[16, 32],
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
        motion_max_seq_length=6,
    )
    net = UNetMotionModel.from_unet2d(unet(24), adapter)
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="linspace")
    parts = dict(vae=vae(), text_encoder=text(24), tokenizer=TOKENIZER, unet=filled(net), scheduler=scheduler)
    request = dict(prompt="the cat smiling", negative_prompt="red hat", guidance=7.5, steps=5, frames=3, size=[16, 24])
    (HERE / "adapter").mkdir(exist_ok=True)
    adapter.save_config(HERE / "adapter")
    return AnimateDiffPipeline(**parts, motion_adapter=None), request, [2, 4, 3, 8, 12]


def svd():
    """A clip of an image, decoded in two parts."""
    net = UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=[32, 64],
        down_block_types=["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        up_block_types=["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
        addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=18,
        layers_per_block=1,
        cross_attention_dim=12,
        num_attention_heads=[2, 4],
        num_frames=4,
    )
    coder = AutoencoderKLTemporalDecoder(
        block_out_channels=[32, 32], down_block_types=["DownEncoderBlock2D"] * 2, layers_per_block=2, sample_size=16
    )
    # The pipeline resizes images to 224 pixels.
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        projection_dim=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=56,
        hidden_act="gelu",
    )
    keys = dict(interpolation_type="linear", prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1)
    sigmas = dict(sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True, timestep_type="continuous")
    pipe = StableVideoDiffusionPipeline(
        vae=filled(coder),
        image_encoder=filled(CLIPVisionModelWithProjection(vision)),
        unet=filled(net),
        scheduler=EulerDiscreteScheduler(**BETAS, **keys, **sigmas),
        feature_extractor=CLIPImageProcessor(),
    )
    request = dict(guidance=2.5, min_guidance=1.2, steps=5, frames=3, size=[16, 24], fps=9, motion=100)
    return pipe, dict(request, noise_level=50, vae_frames=2), [1, 4, 3, 8, 12]


def wan(pipeline=WanPipeline, parts=None, **more):
    """A clip of a text, whose tokenizer is SentencePiece's."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghilmnoprstuw", "▁the", "▁cat", "ing", "▁red", "▁hat", "smil"]
    vocab = [(piece, -float(i) / 8 if i > 2 else 0.0) for i, piece in enumerate(pieces)]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    config = dict(vocab_size=len(pieces), d_model=20, d_kv=5, d_ff=32, num_layers=2, num_heads=4)
    encoder = UMT5EncoderModel(UMT5Config(**config))
    state = {k: list(v.shape) for k, v in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    encoder.load_state_dict({k: weight(k, s) for k, s in state.items()}, strict=False)
    net = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=14,
        out_channels=6,
        text_dim=20,
        freq_dim=16,
        ffn_dim=40,
        num_layers=2,
        **(dict(in_channels=6) | more),
    )
    coder = AutoencoderKLWan(
        base_dim=4,
        z_dim=6,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.3, -0.4, 0.5, -0.6],
        latents_std=[1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
        scale_factor_spatial=4,
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    parts = (parts or {}) | dict(vae=filled(coder), text_encoder=encoder.eval(), tokenizer=tokenizer, scheduler=scheduler)
    pipe = pipeline(**parts, transformer=filled(net))
    request = dict(prompt="  the cat\n smiling", negative_prompt="red hat", guidance=4.0, steps=5, frames=5)
    return pipe, dict(request, size=[16, 32]), [1, 6, 2, 4, 8]


def wan_image():
    """A clip whose first frame is an image. It is cropped but not resized for CLIP: torchvision and Pillow round differently then."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        hidden_act="gelu",
    )
    model = CLIPVisionModel(vision)
    # Published files have a prefix that some versions of transformers leave out.
    prefix = "" if next(iter(model.state_dict())).startswith("vision_model.") else "vision_model."
    size = dict(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    parts = dict(image_encoder=filled(model, prefix), image_processor=CLIPImageProcessor(**size))
    return wan(WanImageToVideoPipeline, parts, in_channels=16, image_dim=16, added_kv_proj_dim=28)


def lora():
    """A low-rank change of some layers, by the names that diffusers writes."""
    pipe, request, shape = sd1()
    layers = {
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": ([2, 32], [32, 2]),
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": ([2, 24], [32, 2]),
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": ([2, 32], [256, 2]),
        "mid_block.attentions.0.proj_in": ([2, 32, 1, 1], [32, 2, 1, 1]),
        "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0": ([3, 16], [16, 3]),
    }
    factors = {}
    for name, (down, up) in layers.items():
        for part, size in (("lora_A", down), ("lora_B", up)):
            factors[f"unet.{name}.{part}.weight"] = sample(f"{name}.{part}", size).numpy()
    return pipe, dict(request, lora=0.4), shape, factors


def learned():
    """A token of two vectors."""
    pipe, request, shape = sd1()
    vectors = sample("learned", [2, 24]).numpy()
    return pipe, dict(request, prompt="a photo of <thing> with the cat"), shape, {"emb_params": vectors}


CASES = dict(
    lora=lora,
    learned=learned,
    sd1=sd1,
    sd2=sd2,
    sdxl=sdxl,
    sdxl_skip=sdxl_skip,
    distilled=distilled,
    img2img=img2img,
    inpaint=inpaint,
    sdxl_inpaint=sdxl_inpaint,
    upscale=upscale,
    latent_upscale=latent_upscale,
    controlnet=controlnet,
    controlnets_guess=controlnets_guess,
    controlnet_sdxl=controlnet_sdxl,
    controlnet_img2img=controlnet_img2img,
    controlnet_inpaint=controlnet_inpaint,
    t2i=t2i,
    t2i_pair=t2i_pair,
    t2i_sdxl=t2i_sdxl,
    refiner=refiner,
    refined=refined,
    ldm_upscale=ldm_upscale,
    dit=dit,
    ldm=ldm,
    video=video,
    motion=motion,
    svd=svd,
    wan=wan,
    wan_image=wan_image,
)


def picture(size):
    return Image.fromarray(((np.arange(size * size * 3) * 37) % 256).astype(np.uint8).reshape(size, size, 3))


def control_picture(height, width, i):
    """The picture that ControlNet `i` reads."""
    values = (np.arange(height * width * 3) * (53 + 10 * i)) % 256
    return Image.fromarray(values.astype(np.uint8).reshape(height, width, 3))


class Decoded(Exception):
    pass


def make(name):
    pipe, request, shape, *factors = CASES[name]()
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    for tokenizer in folder.glob("tokenizer*") if not name.startswith("wan") else ():
        shutil.rmtree(tokenizer)
    if name == "dit":
        # Published folders have the labels here; diffusers reads and does not write them.
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {str(i): f"thing {i}, name {i}" for i in range(3)}
        (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    if factors and name == "learned":
        save_file(factors[0], folder / "learned.safetensors")
        pipe.load_textual_inversion(torch.from_numpy(factors[0]["emb_params"]), token="<thing>")
    elif factors:
        save_file(factors[0], folder / "lora.safetensors")
        pipe.load_lora_weights(folder, weight_name="lora.safetensors", adapter_name="change")
        pipe.set_adapters("change", request.pop("lora"))
    if name in ("sd2", "controlnets_guess"):
        # transformers 5 has no such part anymore, which diffusers 0.42 asks for.
        pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    latents = sample("latents", shape)
    modules = (img2img_module, inpaint_module, sdxl_inpaint_module, sdxl_img2img_module, ldm_upscale_module, control_img2img_module, control_inpaint_module)
    for module in (*modules, dit_module, ldm_module):
        module.randn_tensor = lambda shape, **_: latents
    # It repairs damaged texts, of which there are none here.
    wan_image_module.ftfy = types.SimpleNamespace(fix_text=str)
    for module in (upscale_module, svd_module):
        module.randn_tensor = lambda shape, **_: sample("small", list(shape))
    if name == "latent_upscale":
        vae_module.randn_tensor = lambda shape, **_: sample("small", list(shape))
    if name.endswith("inpaint"):
        DiagonalGaussianDistribution.sample = lambda self, *_: self.mean
    pipe.set_progress_bar_config(disable=True)
    steps = dict(num_inference_steps=request["steps"])
    autoencoder = pipe.vqvae if name.startswith("ldm") else pipe.vae
    last = pipe
    if name == "refined":
        last = refiner(autoencoder)[0]
        last.set_progress_bar_config(disable=True)
        # The folder is that of another case.
        shutil.rmtree(folder)
        folder.mkdir()
    seen, decode = [], autoencoder.decode

    def watched(z, *rest, **more):
        # In parts that see their frames together, or each for itself.
        frames = dict(num_frames=more["num_frames"]) if "num_frames" in more else {}
        seen.append(decode(z, **frames).sample)
        return decode(z, *rest, **more)

    autoencoder.decode = watched
    with torch.no_grad():
        if name == "dit":
            pipe(class_labels=request["classes"], guidance_scale=request["guidance"], **steps)
        elif name == "ldm":
            pipe(batch_size=shape[0], **steps)
        elif name == "ldm_upscale":
            pipe(picture(shape[2]), batch_size=shape[0], **steps)
        elif name == "refined":
            more = dict(prompt=request["prompt"], negative_prompt=request["negative_prompt"], guidance_scale=request["guidance"])
            more |= dict(num_images_per_prompt=shape[0], **steps)
            part, size = request["refine_from"], dict(height=2 * shape[2], width=2 * shape[3])
            begun = pipe(**more, **size, latents=latents, denoising_end=part, output_type="latent").images
            sizes = dict(original_size=(16, 16), target_size=(16, 16))
            last(**more, **sizes, image=begun, denoising_start=part, aesthetic_score=request["aesthetic_score"])
        elif name == "svd":
            height, width = request["size"]
            pipe(
                control_picture(height, width, 0),
                height=height,
                width=width,
                num_frames=request["frames"],
                min_guidance_scale=request["min_guidance"],
                max_guidance_scale=request["guidance"],
                fps=request["fps"],
                motion_bucket_id=request["motion"],
                noise_aug_strength=request["noise_level"] / 1000,
                decode_chunk_size=request["vae_frames"],
                latents=latents.transpose(1, 2),
                **steps,
            )
        elif name in ("video", "motion", "wan", "wan_image"):
            # It makes one clip of a prompt.
            prompts = {key: [request[key]] * shape[0] for key in ("prompt", "negative_prompt")}
            height, width = request["size"]
            more = dict(guidance_scale=request["guidance"], num_frames=request["frames"], height=height, width=width)
            if name == "wan_image":
                more["image"] = control_picture(height, width, 0)
            pipe(**prompts, latents=latents, **more, **steps)
        else:
            more = dict(guidance_scale=request["guidance"], **steps)
            for key, theirs in (("guidance_rescale",) * 2, ("clip_skip",) * 2, ("strength",) * 2, ("negative_prompt",) * 2):
                if key in request:
                    more[theirs] = request[key]
            controls = request.get("controls", [])
            pictures = [control_picture(2 * shape[2], 2 * shape[3], i) for i in range(len(controls))]
            # Of several ControlNets or adapters all are lists.
            each = (lambda all: all) if len(controls) > 1 else (lambda all: all[0])
            if controls and name.startswith("t2i"):
                more["adapter_conditioning_scale"] = each([float(one.get("scale", 1.0)) for one in controls])
                if "range" in controls[0]:
                    more["adapter_conditioning_factor"] = controls[0]["range"][1]
                pictures = each(pictures)
            elif controls:
                more["controlnet_conditioning_scale"] = each([float(one.get("scale", 1.0)) for one in controls])
                more["control_guidance_start"] = each([one.get("range", [0.0, 1.0])[0] for one in controls])
                more["control_guidance_end"] = each([one.get("range", [0.0, 1.0])[1] for one in controls])
                more["guess_mode"] = request.get("guess", False)
                pictures = each(pictures)
            if name == "refiner":
                more |= {key: request[key] for key in ("aesthetic_score", "negative_aesthetic_score")}
            if name.endswith("img2img") or name == "refiner":
                more["image"] = picture(2 * shape[2])
                more |= dict(control_image=pictures) if controls else {}
            elif name.endswith("inpaint"):
                more |= dict(control_image=pictures) if controls else {}
                mask = np.zeros((2 * shape[2], 2 * shape[3]), np.uint8)
                mask[3:11, 4:14] = 255
                more |= dict(image=picture(2 * shape[2]), mask_image=Image.fromarray(mask))
                more |= dict(latents=latents, num_images_per_prompt=shape[0], strength=1.0)
            elif name == "upscale":
                more |= dict(image=picture(shape[2]), noise_level=request["noise_level"], latents=latents)
            elif name == "latent_upscale":
                more |= dict(image=picture(shape[2]), latents=latents)
            else:
                more |= dict(latents=latents, num_images_per_prompt=shape[0], height=2 * shape[2], width=2 * shape[3])
                more |= dict(image=pictures) if controls else {}
            pipe(request["prompt"], **more)
    out = (torch.cat(seen) if name == "svd" else seen[0]).numpy()
    if name in ("video", "motion", "svd"):
        # From frames of channels to channels of frames.
        out = out.reshape(shape[0], shape[2], *out.shape[1:]).transpose(0, 2, 1, 3, 4)
    out = np.ascontiguousarray(out)
    assert np.isfinite(out).all()
    metadata = dict(
        request=json.dumps(dict(count=shape[0], **request)),
        latents=json.dumps(shape),
        versions=f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
    )
    save_file({"pictures": out}, folder / "answer.safetensors", metadata)
    print(name, out.shape, float(np.sqrt(np.mean(out**2))))


WEIGHTED = [("a photo of the ", 1.0), ("cat", 1.3), (" with ", 1.0), ("red hat", 0.6), (" on hills", 1.0)]


def write_weights():
    """Features of a text whose words are weighted, by the formulas of ComfyUI and of AUTOMATIC1111's web UI."""
    ids, weights = [VOCABULARY - 2], [1.0]
    for part, weight in WEIGHTED:
        tokens = TOKENIZER(part, add_special_tokens=False)["input_ids"]
        ids += tokens
        weights += [weight] * len(tokens)
    pad = TOKENIZER.pad_token_id
    ids = [*ids, VOCABULARY - 1] + [pad] * (76 - len(ids))
    weights = torch.tensor(weights + [1.0] * (77 - len(weights)))[None, :, None]
    empty = [VOCABULARY - 2, VOCABULARY - 1] + [pad] * 75
    encoder = text(24)
    with torch.no_grad():
        z, z_empty = encoder(torch.tensor([ids, empty])).last_hidden_state.split(1)
    multiplied = z * weights
    save_file(
        {
            "plain": z.numpy(),
            "comfyui": ((z - z_empty) * weights + z_empty).numpy(),
            "a1111-no-norm": multiplied.numpy(),
            "a1111": (multiplied * (z.mean() / multiplied.mean())).numpy(),
        },
        HERE / "weighted.safetensors",
        dict(versions=f"transformers {transformers.__version__}, torch {torch.__version__}"),
    )


if __name__ == "__main__":
    write_weights()
    torch.set_num_threads(2)
    for case in sys.argv[1:] or CASES:
        make(case)
