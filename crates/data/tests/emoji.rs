//! The built-in collection: its contents and filters.

#![allow(clippy::unwrap_used)]

use tweedie_data::{DataConfig, DataError, Dataset, EmojiClasses, EmojiConfig, Rgb};

fn open(emoji: EmojiConfig) -> Result<Dataset, DataError> {
    Dataset::open(&DataConfig { size: 16, emoji, ..DataConfig::default() })
}

fn everything() -> EmojiConfig {
    EmojiConfig {
        include_skin_tones: true,
        include_flags: true,
        include_keycaps: true,
        ..EmojiConfig::default()
    }
}

#[test]
fn the_default_has_no_variants() {
    let emoji = open(EmojiConfig::default()).unwrap();
    assert_eq!(emoji.len(), 1631);
    assert_eq!(emoji.class_names().len(), 94);
    assert_eq!(emoji.class_names()[..2], ["face-smiling", "face-affection"]);
    assert!(emoji.is_cached() && emoji.skipped().is_empty());
    let names: Vec<&str> = emoji.names().collect();
    assert_eq!(
        names[..3],
        ["grinning face", "grinning face with big eyes", "grinning face with smiling eyes"]
    );
    assert!(
        names.iter().all(|n| !n.contains("skin tone") && !n.contains("keycap") && !n.starts_with("flag:"))
    );
    let at = |name: &str| emoji.get(names.iter().position(|n| *n == name).unwrap()).unwrap();
    let class = |name: &str| &emoji.class_names()[at(name).class.unwrap()];
    assert_eq!(at("pizza").words.caption.as_deref(), Some("pizza"));
    for (name, subgroup) in [
        ("grinning face", "face-smiling"),
        ("smiling face with hearts", "face-affection"),
        ("pizza", "food-prepared"),
        ("rocket", "transport-air"),
        ("jack-o-lantern", "event"),
        ("yellow square", "geometric"),
    ] {
        assert_eq!(class(name), subgroup, "{name}");
    }
    assert_eq!(at("red heart").sample.pixel(8, 7), [221, 46, 68], "Twemoji's red, #DD2E44");
    assert_eq!(at("red heart").sample.pixel(0, 0), [255; 3]);
}

#[test]
fn all_of_it_and_single_groups() {
    let all = open(everything()).unwrap();
    // 4009 files, except 65 that are parts of emoji or not in Unicode's list: letters of flags, swatches of skin and hair,
    // variants of three emoji, Twitter's own sign.
    assert_eq!(all.len(), 3944);
    let flags = open(EmojiConfig { groups: vec!["Flags".into()], ..EmojiConfig::default() }).unwrap();
    assert_eq!(flags.class_names(), ["flag", "country-flag", "subdivision-flag"]);
    assert_eq!(flags.names().next(), Some("chequered flag"));
    let error = open(EmojiConfig { groups: vec!["Flag".into()], ..EmojiConfig::default() }).err().unwrap();
    assert!(error.to_string().contains("\"Flag\"") && error.to_string().contains("Food & Drink"), "{error}");
    let mut names: Vec<&str> = all.names().collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len(), "names are unique");
}

#[test]
fn groups_are_the_coarser_classes() {
    let groups = open(EmojiConfig { classes: EmojiClasses::Group, ..EmojiConfig::default() }).unwrap();
    assert_eq!(groups.class_names().len(), 8);
    assert_eq!(groups.class_names()[3], "Food & Drink");
    let fine = open(EmojiConfig::default()).unwrap();
    let group_of = |i: usize| groups.get(i).unwrap().class.unwrap();
    let mut owner = vec![None; fine.class_names().len()];
    for i in 0..fine.len() {
        let class = fine.get(i).unwrap().class.unwrap();
        assert_eq!(*owner[class].get_or_insert(group_of(i)), group_of(i), "a subgroup lies in one group");
    }
}

#[test]
fn skin_tones_stay_on_one_side_of_the_split() {
    let all = open(everything()).unwrap();
    let (train, held) = all.split();
    assert_eq!(train.len() + held.len(), all.len());
    let share = held.len() as f64 / all.len() as f64;
    assert!((0.02..0.09).contains(&share), "{share}");
    let family = |name: &str| name.split(':').next().unwrap_or("").to_owned();
    let trained: std::collections::HashSet<String> =
        train.names().filter(|n| n.contains("skin tone")).map(family).collect();
    let waving = |d: &Dataset| d.names().filter(|n| n.starts_with("waving hand")).count();
    assert!(waving(&train) == 6 || waving(&held) == 6);
    for name in held.names().filter(|n| n.ends_with(": light skin tone") || n.ends_with(": dark skin tone")) {
        assert!(!trained.contains(&family(name)), "{name} is held out, a sibling is not");
    }
    let plain = open(EmojiConfig::default()).unwrap().split().1;
    let held: std::collections::HashSet<&str> = held.names().collect();
    assert!(plain.names().all(|n| held.contains(n)), "the split does not depend on who else is there");
}

#[test]
fn background_and_laziness() {
    let config = DataConfig { size: 24, background: Rgb([10, 20, 30]), ..DataConfig::default() };
    let cached = Dataset::open(&config).unwrap();
    let lazy = Dataset::open(&DataConfig { cache_mb: 0, ..config }).unwrap();
    assert!(cached.is_cached() && !lazy.is_cached());
    for i in [0, 100, 1000] {
        let (a, b) = (cached.get(i).unwrap(), lazy.get(i).unwrap());
        assert_eq!((&a.sample, &a.name, a.class), (&b.sample, &b.name, b.class));
    }
    assert_eq!(cached.get(0).unwrap().sample.pixel(0, 0), [10, 20, 30]);
    assert!(matches!(cached.get(1 << 20), Err(DataError::Index { .. })));
}

#[test]
fn words_are_unicodes() {
    let all = open(everything()).unwrap();
    let names: Vec<&str> = all.names().collect();
    let words: Vec<_> = all.words().collect();
    let of = |name: &str| words[names.iter().position(|n| *n == name).unwrap()];
    let heart = of("red heart");
    assert_eq!(heart.caption.as_deref(), Some("red heart"));
    assert_eq!(heart.keywords, ["emotion", "heart", "love", "red"]);
    assert_eq!(heart.kinds, ["smileys and emotion", "heart"]);
    assert!(of("man running").keywords.contains(&"marathon".into()));
    // Skin tones share the keywords of the emoji without.
    assert_eq!(of("waving hand: dark skin tone").keywords, of("waving hand").keywords);
    let plain = open(EmojiConfig::default()).unwrap();
    let without = plain.words().filter(|w| w.keywords.is_empty()).count();
    assert!(without < 90, "{without} of {}: families, what newer versions of Unicode add", plain.len());
}

#[test]
fn items_are_held_out_by_name() {
    let config = |names: &[&str]| DataConfig {
        size: 16,
        holdout: 0.0,
        emoji: EmojiConfig {
            holdout_names: names.iter().map(|n| (*n).into()).collect(),
            ..EmojiConfig::default()
        },
        ..DataConfig::default()
    };
    let (train, held) = Dataset::open(&config(&["green heart", "pizza"])).unwrap().split();
    let mut names: Vec<&str> = held.names().collect();
    names.sort_unstable();
    assert_eq!((names, train.len()), (vec!["green heart", "pizza"], 1629));
    let error = Dataset::open(&config(&["pizzas"])).err().unwrap().to_string();
    assert!(error.contains("emoji.holdout_names = \"pizzas\""), "{error}");
}

#[test]
fn copies_in_other_colours_have_the_words_of_their_colour() {
    let config = |repainted| DataConfig {
        size: 16,
        holdout: 0.0,
        emoji: EmojiConfig { repainted, holdout_names: vec!["whale".into()], ..EmojiConfig::default() },
        ..DataConfig::default()
    };
    let (plain, painted) = (Dataset::open(&config(0)).unwrap(), Dataset::open(&config(3)).unwrap());
    let added: Vec<usize> = (plain.len()..painted.len()).collect();
    assert!(added.len() > 2 * plain.len() && added.len() < 3 * plain.len(), "{}", added.len());
    let names: Vec<&str> = painted.names().collect();
    assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len(), "names are unique");
    let cats: Vec<usize> = added.iter().copied().filter(|&i| names[i].ends_with(" cat face")).collect();
    assert_eq!(cats.len(), 3);
    for &i in &cats {
        let item = painted.get(i).unwrap();
        let color = item.name.strip_suffix(" cat face").unwrap();
        assert_eq!(item.words.caption.as_deref(), Some(&*item.name));
        assert!(item.words.keywords.contains(&format!("{color} pet")), "{:?}", item.words);
        let original = plain.get(names.iter().position(|name| *name == "cat face").unwrap()).unwrap();
        assert_ne!(item.sample.pixels, original.sample.pixels);
    }
    // Copies of what is held out are held out; a colour that Unicode has is not painted again.
    assert_eq!(painted.split().1.names().filter(|name| name.ends_with("whale")).count(), 4);
    assert_eq!(names.iter().filter(|name| **name == "green heart").count(), 1);
    let error = Dataset::open(&config(9)).err().unwrap().to_string();
    assert!(error.contains("emoji.repainted = 9"), "{error}");
}
