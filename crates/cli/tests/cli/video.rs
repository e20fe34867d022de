//! Clips: training, sampling, continuing, and what is wrong with requests and files.

use std::{fs, path::Path, sync::LazyLock};

use tweedie::{
    data::{
        clip::{Part, read},
        moving::{Checker, Motion, Thing},
    },
    media::{Image, Rgb, Video},
};

use serde_json::json;

use crate::{
    common::{Scratch, finish, program},
    http::Served,
};

/// A model of four frames of 16×16 pixels, trained for two steps; made once.
static MODEL: LazyLock<String> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("video");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let vae = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/emoji-vae-64");
    let mut args = vec!["train", "--preset", "text-to-video", "--vae", vae.to_str().unwrap(), "--out", "run"];
    args.extend(["--steps", "2", "--batch", "2"]);
    for key in [
        "run.preview_every=0",
        "run.validate_every=0",
        "data.size=16",
        "data.moving.clips=8",
        "model.base_channels=8",
        "model.multipliers=[1, 1]",
        "model.attention_levels=[1]",
        "text.width=16",
    ] {
        args.extend(["--set", key]);
    }
    finish(program(&folder, &args)).ok();
    folder.join("run/model").to_str().unwrap().to_owned()
});

fn sample<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["sample", "--model", &MODEL, "--prompt", "a cat spins", "--steps", "2", "--zoom", "1"];
    let fixed: Vec<&'static str> = fixed.map(|word| -> &'static str { word.to_owned().leak() }).to_vec();
    [fixed, more.to_vec()].concat()
}

#[test]
fn clips_are_written_made_again_and_continued() {
    let scratch = Scratch::new();
    let ran = scratch.ok(&sample(&["--frames", "4", "-o", "a.webp"]));
    assert!(ran.stdout.contains("1 clip, 2 steps"), "{}", ran.told());
    let first = read(&scratch.path("a.webp"), Part::All).unwrap().video;
    // Four frames of eight per second, with a margin.
    assert_eq!((first.frames.len(), first.frames[0].width, first.delay), (4, 20, 125));
    let model: &str = &MODEL;
    for name in ["b.png", "b.gif", "b.y4m"] {
        scratch.ok(&["sample", "--like", "a.webp", "--model", model, "--zoom", "1", "-o", name]);
    }
    assert_eq!(read(&scratch.path("b.png"), Part::All).unwrap().video, first);
    scratch.ok(&sample(&["--frames", "4", "-n", "2", "--fps", "20", "--singles", "each", "-o", "c.png"]));
    let single = read(&scratch.path("each/0000.png"), Part::All).unwrap().video;
    assert_eq!((single.frames.len(), single.frames[0].width, single.delay), (4, 16, 50));

    // The given frames stay as they are; windows of 16, of which 8 are seen.
    single.write(&scratch.path("given.png"), None).unwrap();
    let ran = scratch.ok(&sample(&["--continue", "given.png", "--frames", "30", "-o", "long.png"]));
    assert!(ran.stdout.contains("30 frames, 4 of them given, in 3 windows"), "{}", ran.told());
    let long = read(&scratch.path("long.png"), Part::All).unwrap().video;
    assert_eq!((long.frames.len(), long.delay), (30, 50));
    assert_eq!(long.frames[..4], single.frames);
    assert!(long.frames[4..].iter().any(|frame| *frame != single.frames[3]));
    // The same request, the same frames.
    scratch.ok(&["sample", "--like", "long.png", "--model", model, "--zoom", "1", "-o", "again.png"]);
    assert_eq!(read(&scratch.path("again.png"), Part::All).unwrap().video, long);
}

#[test]
fn the_shipped_model_moves_things_as_asked() {
    let scratch = Scratch::new();
    let whale = ["--prompt", "a whale shrinks", "--singles", "each", "-o", "a.webp"];
    scratch.ok(&[&["sample", "--model", "moving-emoji"], &whale[..]].concat());
    let video = read(&scratch.path("each/0000.webp"), Part::All).unwrap().video;
    let verdict = Checker::new(Rgb([255; 3])).check(&video.frames, 8, Motion::Shrinks).unwrap();
    assert!(verdict.shows(Thing::named("whale").unwrap()) && verdict.follows, "{verdict:?}");
}

#[test]
fn a_folder_of_clips_is_shown() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("clips/cats")).unwrap();
    let frame = |f: usize| Image::filled(24, 16, Rgb([20 * f as u8, 90, 0]));
    let clip = |frames: usize| Video { frames: (0..frames).map(frame).collect(), delay: 100 };
    clip(12).write(&scratch.path("clips/cats/a.y4m"), None).unwrap();
    clip(3).write(&scratch.path("clips/cats/b.y4m"), None).unwrap();
    fs::write(scratch.path("clips/cats/a.txt"), "a cat").unwrap();
    let ran = scratch.ok(&["data", "clips", "--size", "8", "--frames", "4", "-o", "all.webp"]);
    for part in [
        "2 clips, 15 frames",
        "duration: 0.30 to 1.20 s",
        "rates: 2 of 10 frames per second",
        "sizes: 2 of 24×16 pixels",
        "1 shorter than 4 frames at 8 per second, which training skips: cats/b.y4m",
        "1 of 2 clips with a caption",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.told());
    }
    let shown = read(&scratch.path("all.webp"), Part::All).unwrap().video;
    assert_eq!((shown.frames.len(), shown.frames[0].width), (4, 28));
    clip(12).write(&scratch.path("clips/c.gif"), None).unwrap();
    let ran = scratch.ok(&["data", "clips"]);
    assert!(ran.stdout.contains("1 images") && ran.stderr.contains("2 .y4m"), "{}", ran.told());
    let ran = scratch.ok(&["data", "clips", "--clips", "-o", "sheet.png"]);
    assert!(ran.stdout.contains("3 clips"), "{}", ran.told());
    scratch.fails(&["data", "clips", "--frames", "3"], &["--clips shows clips"]);
    scratch.fails(&["data", "emoji", "--clips"], &["no clips in"]);
}

/// Twenty frames that differ in every pixel.
fn given(scratch: &Scratch) -> Video {
    let pixel = |f: usize, i: usize| [(7 * i) as u8, (9 * f + i) as u8, (3 * i * (f + 1)) as u8];
    let frame =
        |f: usize| Image { width: 20, height: 16, pixels: (0..320).flat_map(|i| pixel(f, i)).collect() };
    let video = Video { frames: (0..20).map(frame).collect(), delay: 100 };
    video.write(&scratch.path("given.webp"), None).unwrap();
    video
}

#[test]
fn what_is_known_of_a_clip_stays_exactly() {
    let scratch = Scratch::new();
    let video = given(&scratch);
    let model: &str = &MODEL;
    let changed = |command: &str, more: &[&str], output: &str| {
        let fixed = [
            command,
            "given.webp",
            "--model",
            model,
            "--prompt",
            "a cat spins",
            "--steps",
            "2",
            "-o",
            output,
        ];
        scratch.ok(&[&fixed[..], more].concat());
        read(&scratch.path(output), Part::All).unwrap().video
    };
    // Missing frames: those that begin from 0.2 s to 0.5 s.
    let made = changed("restore", &["--gap", "0.2..0.5"], "gap.webp");
    assert_eq!((made.frames.len(), made.delay), (20, 100));
    for (f, (made, given)) in made.frames.iter().zip(&video.frames).enumerate() {
        assert_eq!(made == given, !(2..5).contains(&f), "frame {f}");
    }
    // The same request, the same frames.
    scratch.ok(&["restore", "--like", "gap.webp", "--model", model, "-o", "again.png"]);
    assert_eq!(read(&scratch.path("again.png"), Part::All).unwrap().video, made);

    // New frames between each two, and those that lead back.
    let made = changed("restore", &["--between", "1"], "between.png");
    assert_eq!((made.frames.len(), made.delay), (39, 50));
    assert!(made.frames.iter().step_by(2).eq(&video.frames));
    assert!(made.frames.windows(2).all(|pair| pair[0] != pair[1]));
    let made = changed("edit", &["--close", "3"], "loop.webp");
    assert_eq!((made.frames.len(), &made.frames[..20]), (23, &video.frames[..]));

    // A rectangle of all frames, wider than the window of the network needs.
    let made = changed("edit", &["--rect", "5,4,9,6"], "rect.webp");
    let inside = |i: usize| (5..14).contains(&(i % 20)) && (4..10).contains(&(i / 20));
    for (f, (made, given)) in made.frames.iter().zip(&video.frames).enumerate() {
        let same = |i: usize| made.pixels[3 * i..3 * i + 3] == given.pixels[3 * i..3 * i + 3];
        assert!((0..320).all(|i| inside(i) || same(i)), "frame {f}");
        assert!((0..320).filter(|i| inside(*i) && !same(*i)).count() > 20, "frame {f}");
    }
    // All of it by a strength; new pixels beyond the border.
    let made = changed("edit", &["--strength", "0.5"], "strength.webp");
    assert!(made.frames.iter().zip(&video.frames).all(|(made, given)| made != given));
    let made = changed("edit", &["--extend", "0,0,4,0", "--method", "ddnm"], "wide.webp");
    assert_eq!((made.frames[19].width, made.frames[19].height), (24, 16));
    let left = |image: &Image, y: usize| image.pixels[3 * y * image.width..][..60].to_vec();
    assert!(made.frames.iter().zip(&video.frames).all(|(a, b)| (0..16).all(|y| left(a, y) == left(b, y))));
}

#[test]
fn changes_that_do_not_suit_clips_are_named() {
    let scratch = Scratch::new();
    given(&scratch);
    let model: &str = &MODEL;
    Image::filled(5, 5, Rgb([255; 3])).save_png(scratch.path("small.png")).unwrap();
    for (more, part) in [
        (
            &["restore", "given.webp", "--gap", "1..2.5"][..],
            "gap 1..2.5: expected a beginning and an end in seconds, within the",
        ),
        (&["restore", "given.webp", "--gap", "0.51..0.59"], "no frame begins in it; each lasts 0.100 s"),
        (&["restore", "given.webp", "--gap", "0..2"], "nothing of the clip is known"),
        (&["restore", "given.webp", "--colour"], "clips can have missing frames and masks"),
        (&["restore", "given.webp", "--between", "9999"], "expected at most 1024 new frames"),
        (&["restore", "small.png", "--between", "1"], "a single image, not a clip"),
        (&["edit", "given.webp", "--mask", "small.png"], "5×5 pixels, but the image has 20×16"),
        (
            &["edit", "given.webp", "--rect", "0,0,4,4", "-o", "a.avi"],
            "a.avi: expected a file name with the extension",
        ),
        (
            &["edit", "given.webp", "--rect", "0,0,4,4", "--sheet", "s.png"],
            "--sheet and --spread do not show clips",
        ),
        (&["edit", "given.webp", "--transparent"], "no transparent pixels"),
    ] {
        scratch.fails(&[more, &["--model", model]].concat(), &[part]);
    }
    // A model of images takes the first frame, and says so; it knows no frames.
    let ran = scratch.ok(&["edit", "given.webp", "--rect", "0,0,4,4", "--steps", "2", "-o", "a.png"]);
    assert!(ran.stderr.contains("only its first frame is used"), "{}", ran.told());
    scratch.fails(&["edit", "given.webp", "--close", "2"], &["new frames are parts of clips"]);
    scratch.fails(&["restore", "given.webp", "--gap", "0..0.3"], &["parts of sounds and clips"]);
}

#[test]
fn a_model_of_clips_is_scored() {
    let scratch = Scratch::new();
    let model: &str = &MODEL;
    let command =
        ["eval", "--model", model, "-n", "6", "--steps", "2", "--no-cache", "--holdout", "0.3", "--json"];
    let found = scratch.ok(&command).json().pop().unwrap();
    let sets = found["over_time"].as_array().unwrap();
    assert_eq!(
        sets.iter().map(|set| set["set"].as_str().unwrap()).collect::<Vec<_>>(),
        ["generated", "training", "held out"]
    );
    assert_eq!(sets[0]["clips"], 6);
    // Of real clips the checker knows what they show; small as they are here, it is right about most motions.
    let value = |set: usize, key: &str| sets[set][key]["value"].as_f64().unwrap();
    assert!(value(1, "motion") > value(0, "motion"), "{sets:?}");
    assert!(
        value(1, "identity") <= 1.0
            && value(1, "change") > 0.0
            && sets[0]["identity"]["standard_error"].is_f64()
    );
    let extractors: Vec<_> = found["quality"].as_array().unwrap().iter().map(|q| q["dim"].as_u64()).collect();
    assert_eq!(extractors, [Some(128), Some(64)]);
    assert!(found["pixels"]["generated"][0].is_f64() && found["features"]["generated"][0].is_f64());
    let page = String::from_utf8(scratch.read("eval.html")).unwrap();
    assert!(page.contains("data:image/webp;base64,") && page.contains("identity over time"));
    assert_eq!(read(&scratch.path("eval.webp"), Part::All).unwrap().video.frames.len(), 16);
    // A folder of clips as the data: nothing is known of what they show.
    given(&scratch);
    fs::create_dir(scratch.path("clips")).unwrap();
    for name in ["a", "b", "c"] {
        fs::copy(scratch.path("given.webp"), scratch.path(&format!("clips/{name}.webp"))).unwrap();
        fs::write(scratch.path(&format!("clips/{name}.txt")), "noise").unwrap();
    }
    let more = ["--data", "clips", "--holdout", "0"];
    let found = scratch.ok(&[&command[..8], &more, &["--json"]].concat()).json().pop().unwrap();
    assert!(found["over_time"][1]["thing"].is_null() && found["over_time"][1]["clips"] == 3, "{found}");
    scratch.fails(
        &[&command[..8], &["--data", "emoji"]].concat(),
        &["expected `moving-emoji` or a folder of clips"],
    );
    scratch.fails(&[&command[..8], &["--bound"]].concat(), &["only computed for models of images"]);
}

#[test]
fn solvers_are_compared_by_clips() {
    let scratch = Scratch::new();
    let command = ["compare", "--model", &MODEL, "--prompt", "a cat spins", "-n", "2", "--evals", "2,3"];
    let more = ["--solvers", "ddim,ddpm", "--reference-steps", "4", "--zoom", "1", "-o"];
    let of = |output| [&command[..], &more, &[output]].concat();
    let said = scratch.ok(&of("all.webp")).stdout;
    assert!(said.contains("2 latents to the reference") && said.contains("stochastic"), "{said}");
    let played = read(&scratch.path("all.webp"), Part::All).unwrap().video;
    assert_eq!((played.frames.len(), played.delay), (16, 125));
    assert!(played.frames.windows(2).any(|pair| pair[0] != pair[1]));
    scratch.ok(&of("all.png"));
    assert!(read(&scratch.path("all.png"), Part::All).unwrap_err().to_string().contains("single image"));
    scratch.fails(&of("all.avi"), &["all.avi: expected a file name with the extension"]);
}

#[test]
fn a_server_makes_clips() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &["--model", &MODEL]);
    let facts = served.get("/v1/models/model").is(200).json();
    assert_eq!(facts["medium"], "clip");
    let asked = json!({ "prompt": "a cat spins", "steps": 2, "frames": 4, "count": 2, "fps": 20 });
    let id = served.order(&asked);
    let made = served.results(&id);
    scratch.ok(&sample(&["--frames", "4", "-n", "2", "--fps", "20", "--singles", "each", "-o", "c.png"]));
    scratch.write("made.png", &made[1]);
    let clip = read(&scratch.path("made.png"), Part::All).unwrap().video;
    assert_eq!(read(&scratch.path("each/0001.png"), Part::All).unwrap().video, clip);
    // The same frames in other files.
    let url = served.ended(&id)["images"][1]["url"].as_str().unwrap().to_owned();
    let stem = url.strip_suffix("png").unwrap();
    let other = served.get(&format!("{stem}webp")).is(200);
    assert_eq!(other.header("content-type"), Some("image/webp"));
    scratch.write("made.webp", &other.body);
    assert_eq!(read(&scratch.path("made.webp"), Part::All).unwrap().video, clip);
    assert!(served.get(&format!("{stem}gif")).is(200).body.starts_with(b"GIF89a"));
    assert!(served.get(&format!("{stem}jpeg")).is(400).text().contains("is a clip"));
    served.get(&format!("{stem}avi")).is(404);
    let openai = json!({ "prompt": "a cat spins", "steps": 2, "frames": 4, "output_format": "webp" });
    assert!(served.post("/v1/images/generations", &openai).is(400).text().contains("is a clip"));
    // The same in OpenAI's form.
    let asked = json!({ "prompt": "a cat spins", "steps": 2, "seconds": "0.5", "seed": 0 });
    let video = served.post("/v1/videos", &asked).is(200).json();
    let path = format!("/v1/videos/{}", video["id"].as_str().unwrap());
    assert_eq!(
        (&video["object"], &video["seconds"], &video["size"]),
        (&json!("video"), &json!("0.5"), &json!("16x16"))
    );
    assert_eq!(served.ended(video["id"].as_str().unwrap())["request"]["frames"], 4);
    let done = served.get(&path).is(200).json();
    assert_eq!(
        (&done["status"], &done["progress"], &done["error"]),
        (&json!("completed"), &json!(100), &json!(null))
    );
    assert!(served.get(&format!("{path}/content?variant=thumbnail")).is(200).body.starts_with(b"RIFF"));
    let content = served.get(&format!("{path}/content"));
    match content.status {
        200 => assert_eq!(&content.body[4..8], b"ftyp"),
        _ => assert!(content.is(400).text().contains("ffmpeg")),
    }
    let all = served.get("/v1/videos?limit=5").is(200).json();
    assert!(all["data"].as_array().unwrap().contains(&done), "{all}");
    assert_eq!(served.send("DELETE", &path, &[], b"").is(200).json()["deleted"], true);
    served.get(&path).is(404);
    for (wrong, about) in [
        (json!({ "prompt": "a cat", "seconds": "none" }), "`seconds`"),
        (json!({ "prompt": "a cat", "seconds": "-1" }), "`seconds`"),
        (json!({ "prompt": "a cat", "seconds": "1", "frames": 3 }), "`frames`"),
        (json!({ "prompt": "a cat", "size": "wide" }), "`size`"),
        (json!({ "prompt": "a cat", "count": 2 }), "`count`"),
    ] {
        assert!(served.post("/v1/videos", &wrong).is(400).text().contains(about), "{wrong}");
    }
    // An uploaded clip, of which frames are missing.
    let video = given(&scratch);
    let uploaded =
        served.send("POST", "/v1/uploads", &[], &scratch.read("given.webp")).is(201).json()["sha256"].clone();
    let known = json!({ "image": { "sha256": uploaded }, "mask": { "gaps": [[0.2, 0.5]] } });
    let id = served.order(&json!({ "prompt": "a cat spins", "steps": 2, "known": known }));
    scratch.write("mended.png", &served.results(&id)[0]);
    let mended = read(&scratch.path("mended.png"), Part::All).unwrap().video;
    assert_eq!((mended.frames.len(), mended.delay), (20, 100));
    let kept = |f: usize| mended.frames[f] == video.frames[f];
    assert!((0..20).all(|f| kept(f) != (2..5).contains(&f)));
    let more = json!({ "prompt": "a cat", "continue": { "sha256": "00" } });
    assert!(served.post("/v1/jobs", &more).is(400).text().contains("`continue`"));
}

#[test]
fn wrong_requests_and_files_are_named() {
    let scratch = Scratch::new();
    let still = Image::filled(16, 16, Rgb([9; 3]));
    still.save_png(scratch.path("still.png")).unwrap();
    Video { frames: vec![still.clone(); 20], delay: 40 }.write(&scratch.path("twenty.png"), None).unwrap();
    fs::write(scratch.path("text.mp4"), "no film").unwrap();
    fs::create_dir(scratch.path("empty")).unwrap();
    for (more, part) in [
        (&["-o", "a.avi"][..], "a.avi: expected a file name with the extension .gif, .png"),
        (&["--frames", "0"], "--frames"),
        (&["--frames", "1000000"], "sides from 1 to 16384"),
        (&["--size", "15"], "multiples of 4"),
        (&["--continue", "none.gif"], "none.gif"),
        (&["--continue", "still.png"], "still.png: it is a single image, not a clip"),
        (&["--continue", "empty"], "empty"),
        (&["--continue", "text.mp4"], "ffmpeg"),
        (&["--continue", "twenty.png", "--frames", "20"], "--frames 20: the clip already has 20 frames"),
        (&["--continue", "twenty.png", "--keep", "16"], "--keep 16: expected 1 to 15"),
        (&["--continue", "twenty.png", "-n", "2"], "--continue makes one clip"),
        (&["--keep", "3"], "--keep needs --continue"),
    ] {
        scratch.fails(&sample(more), &[part]);
    }
    scratch.fails(&["sample", "--frames", "3"], &["does not make clips"]);
    scratch.fails(&["sample", "--continue", "twenty.png"], &["needs a model that makes clips"]);
}

#[test]
fn the_data_is_shown_as_sheet_and_animation() {
    let scratch = Scratch::new();
    let ran = scratch.ok(&["data", "moving-emoji", "--size", "16", "-n", "4", "-o", "a.gif"]);
    assert!(ran.stdout.contains("2048 images") && ran.stdout.contains("CC-BY 4.0"), "{}", ran.told());
    let video = read(&scratch.path("a.gif"), Part::All).unwrap().video;
    assert_eq!((video.frames.len(), video.frames[0].width), (16, 44));
    scratch.ok(&["data", "moving-emoji", "--size", "16", "-n", "4", "-o", "a.png"]);
    let error = read(&scratch.path("a.png"), Part::All).unwrap_err().to_string();
    assert!(error.contains("single image"), "{error}");
}
