//! The built-in collection: Twemoji's 72x72 artwork with Unicode's names, groups and subgroups.

use std::{
    collections::{HashMap, HashSet},
    iter::once,
    sync::{Arc, LazyLock},
};

use emojis::{Emoji, Group, SkinTone};
use twemoji_assets::png::PngTwemojiAsset;

use crate::{
    DataError, EmojiClasses, EmojiConfig, Words,
    emoji_subgroups::SUBGROUPS,
    order::mix_name,
    repaint::{PAINTS, plain_name},
    source::{Collection, Entry, Place},
};

/// The attribution that model cards and images of this artwork must contain.
pub const ATTRIBUTION: &str =
    "Emoji artwork: Twemoji, copyright Twitter, Inc and other contributors, CC-BY 4.0";

/// The name of a group in Unicode.
fn group_name(group: Group) -> &'static str {
    match group {
        Group::SmileysAndEmotion => "Smileys & Emotion",
        Group::PeopleAndBody => "People & Body",
        Group::AnimalsAndNature => "Animals & Nature",
        Group::FoodAndDrink => "Food & Drink",
        Group::TravelAndPlaces => "Travel & Places",
        Group::Activities => "Activities",
        Group::Objects => "Objects",
        Group::Symbols => "Symbols",
        Group::Flags => "Flags",
    }
}

/// Artwork files omit the variation selector, except in joined emoji.
pub(crate) fn artwork(emoji: &str) -> Option<&'static [u8]> {
    let plain = || PngTwemojiAsset::from_emoji(&emoji.replace('\u{fe0f}', ""));
    PngTwemojiAsset::from_emoji(emoji).or_else(plain).map(|asset| asset.data.0)
}

/// Keywords of Unicode's Common Locale Data Repository, version 48.2.
static KEYWORDS: LazyLock<HashMap<&str, &str>> =
    LazyLock::new(|| include_str!("emoji_keywords.txt").lines().filter_map(|l| l.split_once('\t')).collect());

fn keywords(emoji: &str) -> Vec<String> {
    let listed = KEYWORDS.get(emoji.replace('\u{fe0f}', "").as_str());
    listed.into_iter().flat_map(|list| list.split(',')).map(Into::into).collect()
}

/// A group's name in plain words: `animals and nature`, `food fruit`.
fn spoken(name: &str) -> String {
    name.replace('&', "and").replace('-', " ").to_lowercase()
}

/// Emoji in Unicode's order. Flags come last, so the other classes keep their indices without them.
pub(crate) fn open(config: &EmojiConfig) -> Result<Collection, DataError> {
    let all: Vec<&str> = Group::iter().map(group_name).collect();
    if let Some(name) = config.groups.iter().find(|name| !all.contains(&name.as_str())) {
        let expected = "names from Smileys & Emotion, People & Body, Animals & Nature, Food & Drink, \
                        Travel & Places, Activities, Objects, Symbols, Flags";
        return Err(DataError::Config { key: "emoji.groups", value: format!("{name:?}"), expected });
    }
    let known = |name: &&String| {
        let toned = |e: &Emoji| e.skin_tones().into_iter().flatten().any(|e| e.name() == **name);
        emojis::iter().any(|e| e.name() == **name || toned(e))
    };
    if let Some(name) = config.holdout_names.iter().find(|name| !known(name)) {
        let (key, value) = ("emoji.holdout_names", format!("{name:?}"));
        return Err(DataError::Config { key, value, expected: "names of emoji in Unicode" });
    }
    let wanted = |group: &Group| {
        let name = group_name(*group);
        let listed = config.groups.iter().any(|g| g == name);
        if config.groups.is_empty() { config.include_flags || *group != Group::Flags } else { listed }
    };
    let groups: Vec<Group> = Group::iter().filter(wanted).collect();
    let mut class_names: Vec<&str> = Vec::new();
    let mut entries = Vec::new();
    for (emoji, subgroup) in with_subgroups() {
        let listed = groups.contains(&emoji.group());
        if !listed || !config.include_keycaps && emoji.name().starts_with("keycap") {
            continue;
        }
        let name = match config.classes {
            EmojiClasses::Group => group_name(emoji.group()),
            EmojiClasses::Subgroup => subgroup,
        };
        let class = class_names.iter().position(|n| *n == name).unwrap_or_else(|| {
            class_names.push(name);
            class_names.len() - 1
        });
        let toned = emoji.skin_tones().into_iter().flatten().filter(|_| config.include_skin_tones);
        let toned = toned.filter(|e| e.skin_tone() != Some(SkinTone::Default));
        let held_out =
            |e: &Emoji| [e, emoji].iter().any(|e| config.holdout_names.iter().any(|n| n == e.name()));
        let entry = |e| Some(Entry { held_out: held_out(e), ..entry(e, emoji, subgroup, class)? });
        entries.extend(once(emoji).chain(toned).filter_map(entry));
    }
    add_repainted(&mut entries, config.repainted);
    Ok(Collection {
        entries,
        class_names: class_names.into_iter().map(Into::into).collect(),
        place: "the built-in emoji".into(),
        looked_for: "emoji that match [data.emoji]".into(),
        ..Collection::default()
    })
}

/// All emoji, each with its subgroup.
fn with_subgroups() -> impl Iterator<Item = (&'static Emoji, &'static str)> {
    let mut ahead = SUBGROUPS.iter().peekable();
    emojis::iter().scan("", move |subgroup, emoji| {
        if let Some((name, _)) = ahead.next_if(|(_, first)| *first == emoji.as_str()) {
            *subgroup = name;
        }
        Some((emoji, *subgroup))
    })
}

/// `family` is the emoji without a skin tone: all tones are on the same side of the held-out split.
fn entry(emoji: &Emoji, family: &Emoji, subgroup: &str, class: usize) -> Option<Entry> {
    let words = Words {
        caption: Some(emoji.name().into()),
        keywords: keywords(family.as_str()),
        kinds: vec![spoken(group_name(emoji.group())), spoken(subgroup)],
    };
    Some(Entry {
        name: emoji.name().into(),
        family: Some(family.name().into()),
        held_out: false,
        class: Some(class),
        words: Arc::new(words),
        place: Place::Bytes(artwork(emoji.as_str())?),
    })
}

/// Adds copies of each emoji in `colors` colours. Those whose names are taken already, by emoji or by copies, are left out.
fn add_repainted(entries: &mut Vec<Entry>, colors: usize) {
    let mut taken: HashSet<String> = emojis::iter().map(|emoji| emoji.name().into()).collect();
    for at in 0..entries.len() {
        let original = &entries[at];
        let (Place::Bytes(artwork), Some(plain)) = (&original.place, plain_name(&original.name)) else {
            continue;
        };
        let artwork = *artwork;
        let mut paints = PAINTS.map(|paint| (format!("{} {plain}", paint.name), paint));
        paints.sort_by_key(|(name, _)| mix_name(name));
        let new = paints.into_iter().filter(|(name, _)| !taken.contains(name)).take(colors);
        let copies: Vec<Entry> = new
            .map(|(name, paint)| {
                let of_color = |word: &String| Some(format!("{} {}", paint.name, plain_name(word)?));
                let words = Words {
                    caption: Some(name.clone()),
                    keywords: original.words.keywords.iter().filter_map(of_color).collect(),
                    kinds: original.words.kinds.clone(),
                };
                Entry {
                    name,
                    family: original.family.clone(),
                    held_out: original.held_out,
                    class: original.class,
                    words: Arc::new(words),
                    place: Place::Repainted(artwork, paint),
                }
            })
            .collect();
        taken.extend(copies.iter().map(|copy| copy.name.clone()));
        entries.extend(copies);
    }
}
