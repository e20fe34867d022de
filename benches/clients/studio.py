"""The studio in Chromium: makes, compares, cancels, paints, restores, enlarges, plays sounds, shows clips, looks at the gallery, with
mouse and keyboard, wide and narrow.

    python studio.py ../../target/release/tweedie [FOLDER]    # writes screenshots to FOLDER
"""

import base64
import json
import pathlib
import re
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

from server import served

# Machines may be busy.
expect.set_options(timeout=60_000)
folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None


def picture(page, name):
    if folder:
        page.screenshot(path=folder / f"{name}.png")


with served("--model", "emoji-text-64", "--model", "emoji-32", "--model", "spoken-digits", "--model", "moving-emoji") as address, sync_playwright() as play:
    browser = play.chromium.launch(executable_path=shutil.which("chromium"))
    page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="light")
    faults = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)

    # Text to image, by keyboard, with a live preview.
    page.keyboard.press("/")
    page.keyboard.type("smiling cat")
    page.get_by_label("Images").fill("8")
    page.get_by_label("Seed", exact=True).fill("7")
    page.keyboard.press("Control+Enter")
    card = page.locator("#jobs > li").first
    expect(card.get_by_alt_text("Image 1 after step")).to_be_visible()
    picture(page, "running")
    expect(card.locator(".top span")).to_have_text("finished", timeout=120_000)
    assert card.locator(".images img").count() == 8
    assert card.locator(".strip img").count() >= 1
    assert "finished" in page.locator("#status").inner_text()

    # Beside a finished one.
    page.get_by_label("Prompt", exact=True).fill("red heart")
    page.get_by_label("Images").fill("4")
    page.get_by_role("button", name="Make Ctrl").click()
    expect(page.locator("#jobs > li").first.get_by_alt_text("Image 4 after step")).to_be_visible(timeout=120_000)
    picture(page, "studio")
    expect(page.locator("#jobs > li").first.locator(".top span")).to_have_text("finished", timeout=120_000)

    # Cancel with Escape.
    page.get_by_label("Steps").first.fill("100")
    page.get_by_role("button", name="Make Ctrl").click()
    expect(page.locator("#jobs > li").first.locator(".top span")).to_contain_text("step")
    page.keyboard.press("Escape")
    expect(page.locator("#jobs > li").first.locator(".top span")).to_contain_text("cancelled")

    # Errors are told.
    page.get_by_label("Width").evaluate("field => { field.value = 63 }")
    page.get_by_role("button", name="Make Ctrl").click()
    expect(page.get_by_role("alert")).to_contain_text("size")
    page.get_by_label("Width").evaluate("field => { field.value = 64 }")

    # By class, compared with half the steps.
    page.get_by_role("combobox", name="Model").select_option("emoji-32")
    expect(page.get_by_role("combobox", name="Class")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_be_hidden()
    page.get_by_role("combobox", name="Class").select_option(label="cat-face")
    page.get_by_label("Images").fill("4")
    page.get_by_role("tab", name="Compare").click()
    page.locator("#other").get_by_role("combobox", name="Solver").select_option("dpmpp-2m")
    page.get_by_role("button", name="Compare", exact=True).click()
    for side in (0, 1):
        expect(page.locator(".side").nth(side).locator(".hint")).to_have_text(re.compile(r"^[\d.]+ s$"), timeout=120_000)
    assert page.locator(".side").nth(1).locator("button:enabled img").count() == 4
    picture(page, "compare")

    # The gallery: metadata, again, start from an image, delete.
    page.get_by_role("tab", name="Compare").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#gallery img").first).to_be_visible()
    results = page.locator("#gallery li").count()
    assert results == 20, results
    picture(page, "gallery")
    page.locator("#gallery button").last.click()
    expect(page.get_by_role("dialog")).to_contain_text("smiling cat")
    picture(page, "details")
    page.get_by_role("button", name="Again").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("smiling cat")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    page.get_by_role("tab", name="Gallery").click()
    page.locator("#gallery button").last.click()
    page.get_by_role("button", name="Start from it").click()
    page.get_by_role("button", name="Make Ctrl").click()
    expect(page.locator("#jobs > li").first.locator(".top span")).to_have_text("finished", timeout=120_000)
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#gallery li")).to_have_count(28)
    page.locator("#gallery button").last.click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#gallery li")).to_have_count(20)

    # A part of an image, painted with the mouse: filled anew.
    def make_and_wait(button="Make Ctrl"):
        cards = page.locator("#jobs > li")
        before = cards.count()
        page.get_by_role("button", name=button).click()
        expect(cards).to_have_count(before + 1)
        expect(cards.first.locator(".top span")).to_have_text("finished", timeout=120_000)

    page.get_by_role("combobox", name="Model").select_option("emoji-32")
    page.locator('#gallery button[title^="class"]').first.click()
    page.get_by_role("button", name="Start from it").click()
    page.get_by_label("Images").fill("4")
    page.get_by_label("Steps").first.fill("20")
    page.get_by_label("What to do").select_option("Fill the painted part anew")
    page.get_by_role("button", name="Make Ctrl").click()
    expect(page.get_by_role("alert")).to_contain_text("Paint the part")
    page.locator("#mask").scroll_into_view_if_needed()
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.35, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.65, box["y"] + box["height"] * 0.6, steps=8)
    page.mouse.up()
    painted = lambda: page.evaluate("document.getElementById('mask').toDataURL()")
    before = painted()
    # By keyboard as well.
    page.locator("#mask").focus()
    for key in ["ArrowDown", "ArrowDown", "Space", "ArrowRight", "Space"]:
        page.keyboard.press(key)
    assert painted() != before
    make_and_wait()
    page.evaluate("scrollTo(0, 0)")
    picture(page, "painted")
    request = json.loads(page.evaluate("fetch('/v1/gallery?limit=1').then(r => r.text())"))["jobs"][0]["request"]
    assert request["known"]["mask"]["files"] and "strength" not in request and request["guidance"] == 1, request

    # What an image has lost.
    page.get_by_label("What to do").select_option("Remove a blur")
    expect(page.get_by_label("Brush")).to_be_hidden()
    expect(page.get_by_label("Width of the blur")).to_have_value("1.5")
    make_and_wait()
    request = json.loads(page.evaluate("fetch('/v1/gallery?limit=1').then(r => r.text())"))["jobs"][0]["request"]
    assert request["known"]["degradations"] == [{"kind": "blur", "sigma": 1.5}] and request["known"]["noise"] == 1, request
    page.get_by_role("button", name="Remove the image").click()

    # A result, enlarged.
    page.locator("#jobs > li").first.locator(".images button").first.click()
    make_and_wait("Enlarge 4 times")
    card = page.locator("#jobs > li").first
    assert card.locator(".images img").evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 128
    picture(page, "enlarged")

    # A model that speaks.
    page.get_by_role("combobox", name="Model").select_option("spoken-digits")
    expect(page.locator("#words")).to_contain_text("zero, one, two")
    page.get_by_label("Prompt", exact=True).fill("three one four")
    page.get_by_role("combobox", name="Voice").select_option("theo")
    page.get_by_label("Sounds").fill("1")
    make_and_wait()
    sound = page.locator("#jobs > li").first.locator("audio")
    expect(sound).to_be_visible()
    seconds = sound.evaluate("audio => new Promise(done => { audio.onloadedmetadata = () => done(audio.duration); audio.load(); })")
    assert 0.5 < seconds < 10, seconds
    page.locator("#jobs > li").first.get_by_role("button", name="Details of").click()
    expect(page.locator("#details-sound")).to_be_visible()
    expect(page.get_by_role("button", name="Start from it")).to_be_hidden()
    picture(page, "sound")
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#gallery audio")).to_have_count(1)
    picture(page, "gallery-all")

    # Clips: previews and results move, and no image is offered to start from.
    page.get_by_role("tab", name="Make").click()
    page.get_by_role("combobox", name="Model").select_option("moving-emoji")
    page.get_by_label("Prompt", exact=True).fill("a red heart bounces")
    page.get_by_label("Clips").fill("2")
    page.locator("summary", has_text="More").click()
    page.get_by_label("Frames").fill("8")
    page.get_by_role("button", name="Make Ctrl").click()
    card = page.locator("#jobs > li").first
    preview = card.get_by_alt_text("Image 1 after step")
    expect(preview).to_be_visible(timeout=120_000)
    assert b"acTL" in base64.b64decode(preview.get_attribute("src").split(",")[1])[:64]
    picture(page, "clip-running")
    expect(card.locator(".top span")).to_have_text("finished", timeout=240_000)
    request = json.loads(page.evaluate("fetch('/v1/gallery?limit=1').then(r => r.text())"))["jobs"][0]["request"]
    assert request["frames"] == 8 and request["count"] == 2, request
    card.locator(".images button").first.click()
    page.wait_for_load_state("networkidle")
    expect(page.get_by_role("button", name="Start from it")).to_be_hidden()
    expect(page.get_by_role("button", name="Enlarge 4 times")).to_be_hidden()
    picture(page, "clip")
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    page.get_by_role("combobox", name="Model").select_option("emoji-32")

    # Dark, and as narrow as a phone.
    page.get_by_role("button", name="Switch").click()
    picture(page, "dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("tab", name="Make").click()
    picture(page, "phone")
    wide = page.evaluate("[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.strip')).map(e => e.outerHTML.slice(0, 80))")
    assert not wide, wide
    picture(page, "phone")
    # The rejected request is an error of the network for the console.
    faults = [fault for fault in faults if "400" not in fault]
    assert not faults, faults
    browser.close()

print("ok")
