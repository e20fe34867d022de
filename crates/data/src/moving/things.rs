//! What can move.

/// A thing that can move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thing {
    /// Its name in captions.
    pub name: &'static str,
    /// Its emoji.
    pub emoji: &'static str,
}

const fn thing(name: &'static str, emoji: &'static str) -> Thing {
    Thing { name, emoji }
}

/// All things. None looks the same after a turn by less than a whole one.
pub const THINGS: [Thing; 24] = [
    thing("red heart", "❤"),
    thing("blue heart", "💙"),
    thing("green heart", "💚"),
    thing("red apple", "🍎"),
    thing("green apple", "🍏"),
    thing("banana", "🍌"),
    thing("carrot", "🥕"),
    thing("strawberry", "🍓"),
    thing("mushroom", "🍄"),
    thing("sunflower", "🌻"),
    thing("cat", "🐱"),
    thing("dog", "🐶"),
    thing("frog", "🐸"),
    thing("pig", "🐷"),
    thing("chick", "🐤"),
    thing("fish", "🐟"),
    thing("whale", "🐳"),
    thing("rocket", "🚀"),
    thing("car", "🚗"),
    thing("bus", "🚌"),
    thing("house", "🏠"),
    thing("star", "⭐"),
    thing("bell", "🔔"),
    thing("gift", "🎁"),
];

/// The allowed values, for errors.
pub(super) const EXPECTED: &str = "names from red heart, blue heart, green heart, red apple, green apple, banana, carrot, \
    strawberry, mushroom, sunflower, cat, dog, frog, pig, chick, fish, whale, rocket, car, bus, house, star, bell, gift";

impl Thing {
    /// The thing called `name`, by its place in [`THINGS`].
    pub fn named(name: &str) -> Option<usize> {
        THINGS.iter().position(|thing| thing.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thing_has_artwork_and_is_listed() {
        for thing in THINGS {
            assert!(crate::emoji::artwork(thing.emoji).is_some(), "{}", thing.name);
            assert!(EXPECTED.contains(thing.name), "{}", thing.name);
        }
    }
}
