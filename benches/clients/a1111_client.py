"""webuiapi, a client of AUTOMATIC1111's web UI, against `tweedie serve`."""

import threading
import time

import webuiapi

from server import served

with served("--model", "emoji-text-64", "--model", "emoji-32") as address:
    host, port = address.removeprefix("http://").split(":")
    api = webuiapi.WebUIApi(host=host, port=port, steps=8)

    samplers = api.util_get_sampler_names()
    assert "Euler a" in samplers and "DPM++ 2M" in samplers, samplers
    assert "karras" in api.util_get_scheduler_names()
    assert api.util_get_model_names() == ["emoji-32", "emoji-text-64"]
    assert api.util_get_current_model() == "emoji-text-64"

    common = dict(prompt="red heart", negative_prompt="blue", width=64, height=64, cfg_scale=3)
    made = api.txt2img(seed=5, batch_size=2, sampler_name="DPM++ 2M", scheduler="karras", **common)
    assert [image.size for image in made.images] == [(64, 64)] * 2
    text = made.images[1].info["parameters"]
    assert text.startswith("red heart\nNegative prompt: blue\nSteps: 8, Sampler: DPM++ 2M, Schedule type: Karras"), text
    assert "Seed: 6," in text and "Size: 64x64, Model: emoji-text-64" in text, text
    assert made.info["all_seeds"] == [5, 6] and made.info["infotexts"][1] == text
    # The second image alone.
    alone = api.txt2img(seed=6, sampler_name="DPM++ 2M", scheduler="karras", **common)
    assert alone.image.tobytes() == made.images[1].tobytes()
    assert api.png_info(alone.image).info == text.replace("\n", "\n")
    assert api.txt2img(seed=-1, **common).info["seed"] >= 0

    # The other model, whose prompts are classes.
    api.util_set_model("emoji-32")
    assert api.util_get_current_model() == "emoji-32"
    cat = api.txt2img(prompt="cat-face", width=32, height=32, cfg_scale=2, steps=10, seed=1)
    changed = api.img2img(images=[cat.image], prompt="cat-face", denoising_strength=0.4, width=32, height=32, cfg_scale=1, seed=2)
    assert changed.image.size == (32, 32) and changed.image.tobytes() != cat.image.tobytes()
    larger = api.extra_single_image(image=cat.image, upscaler_1="Lanczos", upscaling_resize=3)
    assert larger.image.size == (96, 96)
    # By a model, and by its own name.
    assert "emoji-x4" in [upscaler["name"] for upscaler in api.get_upscalers()]
    larger = api.extra_single_image(image=cat.image, upscaler_1="emoji-x4", upscaling_resize=4)
    assert larger.image.size == (128, 128)

    # Progress and interruption.
    done = []
    long = lambda: done.append(api.txt2img(prompt="cat-face", width=32, height=32, cfg_scale=1, steps=250, batch_size=8, sampler_name="DDPM"))
    thread = threading.Thread(target=long)
    thread.start()
    seen, picture = [], None
    while not picture or seen[-1] < 0.02:
        progress = api.get_progress()
        seen.append(progress["progress"])
        picture = progress["current_image"] or picture
        time.sleep(0.05)
    assert progress["state"]["job_count"] == 8, progress["state"]
    api.interrupt()
    thread.join()
    assert done[0].info["interrupted"] and len(done[0].images) < 8
    api.util_wait_for_ready(check_interval=0.1)

    for words, call in [
        ("unknown sampler", lambda: api.txt2img(prompt="", width=32, height=32, sampler_name="Magic")),
        ("enable_hr", lambda: api.txt2img(prompt="", width=32, height=32, enable_hr=True)),
        ("unknown class", lambda: api.txt2img(prompt="unicorn", width=32, height=32)),
    ]:
        try:
            call()
        except RuntimeError as error:
            assert error.args[0] in (400, 422) and words in error.args[1], error
        else:
            raise AssertionError(words)
    for listed in [api.get_upscalers, api.get_loras, api.get_embeddings, api.get_memory, api.get_options, api.get_sd_vae]:
        listed()

print("ok")
