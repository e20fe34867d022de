"""The studio's ControlNet panel in Chromium: choose, upload, edges, scale, again, follow a result. Networks have random weights.

    python control.py ../../target/release/tweedie [FOLDER]    # writes screenshots to FOLDER; needs diffusers and torch
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from server import served

HERE = pathlib.Path(__file__).parent
TOKENIZER = HERE / "../../crates/pipe/tests/golden/latent/tokenizer"
expect.set_options(timeout=60_000)
shots = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None


def models(folder):
    """A small Stable Diffusion and two ControlNets of its family."""
    torch.manual_seed(0)
    blocks = dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=4,
                  down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
    unet = UNet2DConditionModel(sample_size=32, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **blocks)
    vae = AutoencoderKL(block_out_channels=(16, 32), latent_channels=4, norm_num_groups=8, sample_size=64,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    tokenizer = CLIPTokenizerFast.from_pretrained(TOKENIZER)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                        num_attention_heads=2, eos_token_id=len(tokenizer) - 1))
    StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
                            safety_checker=None, feature_extractor=None).save_pretrained(folder / "small-sd")
    for name in ("edges", "depth"):
        net = ControlNetModel(conditioning_embedding_out_channels=(8, 16), **blocks)
        for part in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(part.weight, std=0.2)
        net.save_pretrained(folder / name)


def house(path):
    picture = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((24, 44, 72, 84), fill="#d9803a", outline="black", width=2)
    draw.polygon(((18, 46), (48, 16), (78, 46)), fill="#8c2f39", outline="black")
    picture.save(path)


def shot(page, name):
    if shots:
        page.screenshot(path=shots / f"{name}.png")


with tempfile.TemporaryDirectory() as place, sync_playwright() as play:
    folder = pathlib.Path(place)
    models(folder)
    house(folder / "house.png")
    flags = ("--model", folder / "small-sd", "--model", "emoji-32", "--controlnet", folder / "edges", "--controlnet", folder / "depth")
    with served(*flags) as address:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
        faults = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)

        def last():
            return json.loads(page.evaluate("fetch('/v1/gallery?limit=1').then(r => r.text())"))["jobs"][0]

        def make():
            cards = page.locator("#jobs > li")
            before = cards.count()
            page.get_by_role("button", name="Make Ctrl").click()
            expect(cards).to_have_count(before + 1)
            expect(cards.first.locator(".top span")).to_have_text("finished", timeout=120_000)
            return last()

        panel = page.locator("#with-control")
        expect(panel).to_be_visible()
        page.get_by_label("Prompt", exact=True).fill("a small house")
        page.get_by_label("Steps").first.fill("12")
        page.get_by_label("Images").fill("2")
        plain = make()
        assert "controls" not in plain["request"], plain

        # Choose, upload, find edges, set the scale.
        panel.locator("summary").click()
        expect(page.locator("#followed")).to_be_hidden()
        page.get_by_label("Follow an image").set_input_files(folder / "house.png")
        expect(page.locator("#control-image")).to_be_visible()
        assert page.locator("#control-image").evaluate("image => image.naturalWidth") == 96
        net = page.get_by_role("combobox", name="ControlNet")
        assert net.locator("option").all_inner_texts() == ["edges", "depth"]
        whole = make()
        control = whole["request"]["controls"][0]
        assert control["net"]["path"] == "controlnets/edges" and "canny" not in control and control.get("scale", 1) == 1, control
        net.select_option("depth")
        page.get_by_label("Find the edges").check()
        page.get_by_label("How strongly").fill("0.7")
        edges = make()
        control = edges["request"]["controls"][0]
        assert control["net"]["path"] == "controlnets/depth" and control["canny"] == [100, 200] and control["scale"] == 0.7, control
        files = [job["images"][0]["sha256"] for job in (plain, whole, edges)]
        assert len(set(files)) == 3, files
        page.evaluate("scrollTo(0, 0)")
        page.locator("#drop-control").scroll_into_view_if_needed()
        shot(page, "control")

        # A model that cannot follow images has no panel; the settings are still there afterwards.
        page.get_by_role("combobox", name="Model").select_option("emoji-32")
        expect(panel).to_be_hidden()
        page.get_by_role("combobox", name="Model").select_option("small-sd")
        expect(page.locator("#control-image")).to_be_visible()

        # Without the image nothing is followed.
        page.locator("#drop-control").click()
        expect(page.locator("#followed")).to_be_hidden()
        page.get_by_label("Steps").first.fill("12")
        assert make()["images"][0]["sha256"] == files[0]

        # Again: what was followed is set anew, although the file was an upload.
        page.get_by_role("tab", name="Gallery").click()
        page.locator("#gallery button").nth(2).click()
        expect(page.get_by_role("dialog")).to_contain_text("depth: edges of")
        shot(page, "control-details")
        page.get_by_role("button", name="Again").click()
        expect(page.locator("#control-image")).to_be_visible()
        expect(net).to_have_value("depth")
        expect(page.get_by_label("Find the edges")).to_be_checked()
        expect(page.get_by_label("How strongly")).to_have_value("0.7")
        assert make()["images"][0]["sha256"] == files[2]

        # A result is followed.
        page.locator("#jobs > li").first.locator(".images button").first.click()
        page.get_by_role("button", name="Follow it").click()
        assert make()["request"]["controls"][0]["image"]["sha256"] == files[2]

        # Dark, and as narrow as a phone.
        page.get_by_role("button", name="Switch").click()
        page.locator("#drop-control").scroll_into_view_if_needed()
        shot(page, "control-dark")
        page.set_viewport_size({"width": 390, "height": 844})
        page.locator("#with-control summary").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#with-control').scrollIntoView()")
        shot(page, "control-phone")
        wide = page.evaluate("[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.strip')).map(e => e.outerHTML.slice(0, 80))")
        assert not wide, wide
        assert not faults, faults
        browser.close()

print("ok")
