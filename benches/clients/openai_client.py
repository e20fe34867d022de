"""OpenAI's Python client against `tweedie serve`."""

import base64
import io
import shutil
import urllib.request
import warnings

import openai
from PIL import Image

from server import served


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def raises(kind, words, call):
    try:
        call()
    except kind as error:
        assert words in str(error), error
        return error
    raise AssertionError(f"expected {kind}")


with served() as address:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names == ["emoji-32", "emoji-text-64", "spoken-digits", "emoji-x4"], names
    assert client.models.retrieve("emoji-32").id == "emoji-32"

    # A prompt for a model of texts, with fields of our own.
    own = {"seed": 7, "steps": 8, "guidance": 3, "negative_prompt": "blue", "solver": "unipc"}
    made = client.images.generate(model="emoji-text-64", prompt="red heart", n=2, extra_body=own)
    assert [opened(image.b64_json).size for image in made.data] == [(64, 64)] * 2
    again = client.images.generate(model="emoji-text-64", prompt="red heart", n=2, extra_body=own)
    assert [image.b64_json for image in made.data] == [image.b64_json for image in again.data]
    other = client.images.generate(model="emoji-text-64", prompt="red heart", extra_body=own | {"seed": None})
    assert other.data[0].b64_json != made.data[0].b64_json, "without a seed, images differ"

    # An empty prompt serves a model without prompts; a class is a prompt; sizes, formats, addresses.
    made = client.images.generate(
        prompt="", size="48x32", output_format="webp", response_format="url", extra_body={"steps": 4}
    )
    with urllib.request.urlopen(made.data[0].url) as response:
        assert response.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(response.read())).size == (48, 32)
    made = client.images.generate(
        prompt="cat-face", output_format="jpeg", output_compression=80, quality="high", extra_body={"steps": 4}
    )
    assert opened(made.data[0].b64_json).format == "JPEG"
    assert made.ignored == ["quality"], made.ignored

    # Streams with partial images.
    for partials in range(4):
        stream = client.images.generate(
            prompt="", model="emoji-32", stream=True, partial_images=partials, extra_body={"steps": 12, "seed": 3}
        )
        events = list(stream)
        kinds = [event.type for event in events]
        assert kinds == ["image_generation.partial_image"] * partials + ["image_generation.completed"], kinds
        assert [event.partial_image_index for event in events[:-1]] == list(range(partials))
        assert len({event.b64_json for event in events}) == partials + 1
        assert events[-1].usage.total_tokens == 0

    # Edits and variations.
    picture = io.BytesIO(base64.b64decode(client.images.generate(prompt="cat-face", extra_body={"steps": 6}).data[0].b64_json))
    picture.name = "cat.png"
    edited = client.images.edit(
        image=picture, prompt="cat-face", model="emoji-32", n=2, extra_body={"strength": 0.4, "steps": 10, "seed": 1}
    )
    assert [opened(image.b64_json).size for image in edited.data] == [(32, 32)] * 2
    picture.seek(0)
    varied = client.images.create_variation(image=picture, n=3, model="emoji-32", extra_body={"steps": 10})
    assert len({image.b64_json for image in varied.data}) == 3
    picture.seek(0)
    events = list(client.images.edit(
        image=picture, prompt="", model="emoji-32", stream=True, partial_images=2, extra_body={"steps": 20}
    ))
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]

    # Errors in its classes.
    error = raises(openai.NotFoundError, "unknown model `dall-e-3`", lambda: client.images.generate(model="dall-e-3", prompt=""))
    assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
    error = raises(openai.BadRequestError, "unknown class `unicorn`", lambda: client.images.generate(model="emoji-32", prompt="unicorn"))
    assert error.param == "classes"
    raises(openai.BadRequestError, "expected `png`", lambda: client.images.generate(prompt="", output_format="tiff"))
    raises(openai.BadRequestError, "width and height", lambda: client.images.generate(prompt="", size="large"))
    raises(openai.BadRequestError, "opaque", lambda: client.images.generate(prompt="", background="transparent"))
    raises(openai.BadRequestError, "from 1 to", lambda: client.images.generate(prompt="", n=0))
    raises(openai.BadRequestError, "unknown field `stepz`", lambda: client.images.generate(prompt="", extra_body={"stepz": 3}))

# Videos. The client calls them deprecated, since OpenAI's own service has ended.
warnings.simplefilter("ignore", DeprecationWarning)
with served("--model", "moving-emoji", "--model", "emoji-32") as address:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    video = client.videos.create_and_poll(prompt="a red heart bounces", seconds="1", poll_interval_ms=500, extra_body={"steps": 10, "seed": 3})
    assert (video.status, video.progress, video.error, float(video.seconds)) == ("completed", 100, None, 1.0), video
    assert client.videos.retrieve(video.id).completed_at >= video.created_at
    assert [one.id for one in client.videos.list(limit=10)] == [video.id]
    thumbnail = client.videos.download_content(video.id, variant="thumbnail").read()
    width, height = map(int, video.size.split("x"))
    assert Image.open(io.BytesIO(thumbnail)).size == (width, height)
    if shutil.which("ffmpeg"):
        assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"
    else:
        raises(openai.BadRequestError, "ffmpeg", lambda: client.videos.download_content(video.id))
    assert client.videos.delete(video.id).deleted
    raises(openai.NotFoundError, "no video", lambda: client.videos.retrieve(video.id))
    raises(openai.BadRequestError, "does not make clips", lambda: client.videos.create(prompt="a cat", model="emoji-32"))
    raises(openai.BadRequestError, "`seconds`", lambda: client.videos.create(prompt="a cat", seconds="0"))

print("ok")
