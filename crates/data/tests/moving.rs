//! Moving emoji: drawing, captions, and the checker of laws.

#![allow(clippy::unwrap_used)]

use tweedie_data::{
    Clips, DataConfig, Dataset, Image, MovingConfig, Rgb, Source,
    moving::{Checker, Motion, Pose, Scene, THINGS},
};

#[test]
fn a_clip_only_depends_on_seed_and_index() {
    let config = MovingConfig::default();
    let white = Rgb([255; 3]);
    let clip = |config: &MovingConfig, index| Scene::new(config, index).video(24, white);
    assert_eq!(clip(&config, 7), clip(&config, 7));
    assert_ne!(clip(&config, 7), clip(&config, 7 + 24 * 9));
    assert_ne!(clip(&config, 7), clip(&MovingConfig { seed: 1, ..config.clone() }, 7));
    // More frames per second show the same motion more often.
    let twice = MovingConfig { frames: 32, fps: 16, ..config.clone() };
    for index in [0, 1, 2, 3, 4, 5, 6, 7, 8] {
        let (slow, fast) = (Scene::new(&config, index), Scene::new(&twice, index));
        for frame in 0..16 {
            assert_eq!(slow.frame(frame, 16, white), fast.frame(2 * frame, 16, white), "{}", slow.caption());
        }
    }
}

#[test]
fn pairs_take_turns_and_one_motion_of_each_thing_is_held_out() {
    let config = MovingConfig::default();
    let all: Vec<Scene> = (0..24 * 9).map(|i| Scene::new(&config, i)).collect();
    let mut captions: Vec<String> = all.iter().map(Scene::caption).collect();
    assert_eq!(captions[0], "a red heart bounces");
    captions.sort();
    captions.dedup();
    assert_eq!(captions.len(), 24 * 9);
    for (i, thing) in THINGS.iter().enumerate() {
        let held = all.iter().filter(|s| s.thing() == i && s.is_held_out());
        assert_eq!(held.count(), 1, "{}", thing.name);
    }
}

#[test]
fn things_stay_in_the_frame() {
    let config = MovingConfig::default();
    for index in 0..400 {
        let scene = Scene::new(&config, index);
        for frame in 0..16 {
            for Pose { x, y, size, .. } in scene.poses(frame) {
                let inside = |v: f64| v - size / 2.0 > -0.02 && v + size / 2.0 < 1.02;
                assert!(inside(x) && inside(y), "{} at {frame}: {x} {y} {size}", scene.caption());
            }
        }
    }
}

#[test]
fn wrong_values_are_named() {
    let error = |config: MovingConfig| {
        DataConfig { moving: config, ..DataConfig::default() }.validate().unwrap_err().to_string()
    };
    let base = MovingConfig::default();
    assert!(error(MovingConfig { frames: 0, ..base.clone() }).contains("data.moving.frames = 0"));
    assert!(error(MovingConfig { clips: 0, ..base.clone() }).contains("data.moving.clips = 0"));
    assert!(error(MovingConfig { fps: 0, ..base.clone() }).contains("data.moving.fps = 0"));
    assert!(error(MovingConfig { things: vec!["cow".into()], ..base.clone() }).contains("red heart"));
    assert!(error(MovingConfig { motions: vec!["jumps".into()], ..base }).contains("bounces"));
}

const WHITE: Rgb = Rgb([255; 3]);

#[test]
fn real_clips_are_recognized_and_keep_their_laws() {
    let (config, checker) = (MovingConfig::default(), Checker::new(WHITE));
    let (mut recognized, mut followed, mut missed) = (0, 0, Vec::new());
    let all = 36;
    for index in 0..all {
        let scene = Scene::new(&config, 5 * index);
        let clip = scene.video(64, WHITE);
        let verdict = checker.check(&clip.frames, 8, scene.motion()).unwrap();
        recognized += usize::from(verdict.shows(scene.thing()));
        followed += usize::from(verdict.follows);
        if !verdict.shows(scene.thing()) || !verdict.follows {
            missed.push(format!("{}: {verdict:?}", scene.caption()));
        }
    }
    assert!(
        recognized >= all as usize - 2 && followed >= all as usize - 2,
        "{recognized} {followed} {missed:#?}"
    );
}

#[test]
fn other_motions_are_refused() {
    let (config, checker) = (MovingConfig::default(), Checker::new(WHITE));
    for thing in [10] {
        for shown in Motion::ALL {
            let clip = Scene::of(&config, thing, shown, 5).video(64, WHITE);
            for asked in Motion::ALL {
                let follows = checker.check(&clip.frames, 8, asked).unwrap().follows;
                assert_eq!(follows, shown == asked, "{shown:?} as {asked:?}, {}", THINGS[thing].name);
            }
        }
    }
}

#[test]
fn still_and_empty_clips_follow_nothing() {
    let (config, checker) = (MovingConfig::default(), Checker::new(WHITE));
    let still = vec![Scene::of(&config, 3, Motion::Orbits, 1).frame(0, 64, WHITE); 16];
    let empty = vec![Image::filled(64, 64, WHITE); 16];
    for asked in Motion::ALL {
        let found = checker.check(&still, 8, asked).unwrap();
        assert!(!found.follows, "{asked:?}");
        let found = checker.check(&empty, 8, asked).unwrap();
        assert!(!found.follows && found.thing.is_none());
    }
    assert!(checker.check(&still, 8, Motion::Orbits).unwrap().shows(3));
    assert!(checker.check(&still[..3], 8, Motion::Orbits).is_none());
    assert!(checker.check(&[], 8, Motion::Orbits).is_none());
    let mixed = [64, 32, 64, 32].map(|side| Image::filled(side, side, WHITE));
    assert!(checker.check(&mixed, 8, Motion::Orbits).is_none());
}

#[test]
fn they_are_a_data_set_of_images_and_of_clips() {
    let moving = MovingConfig { clips: 20, frames: 5, ..MovingConfig::default() };
    let config =
        DataConfig { source: Source::MovingEmoji, size: 16, holdout: 0.0, moving, ..DataConfig::default() };
    let images = Dataset::open(&config).unwrap();
    assert_eq!((images.len(), images.class_names().len()), (20, 9));
    assert_eq!(images.get(0).unwrap().words.caption.as_deref(), Some("a red heart bounces"));
    let clips = Dataset::open_by(&config, Clips::of(&config)).unwrap();
    let clip = clips.get(3).unwrap().sample.video(5).unwrap();
    assert_eq!((clip.frames.len(), clip.frames[0].width, clip.delay), (5, 16, 125));
    assert!(clip.frames.contains(&images.get(3).unwrap().sample));
    let (train, held) = clips.split();
    let expected = (0..20).filter(|&i| Scene::new(&config.moving, i).is_held_out()).count();
    assert_eq!((train.len(), held.len()), (20 - expected, expected));
    assert_eq!(clips.get(0).unwrap().sample.video(3).unwrap().frames.len(), 3);
}
