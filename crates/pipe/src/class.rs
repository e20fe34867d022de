//! Choosing classes by name or number.

use std::{convert::Infallible, str::FromStr};

use serde::{Deserialize, Serialize};

/// A class, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassSelector {
    /// Its number.
    Index(usize),
    /// Its name. Case only matters if two names differ in nothing else. Interpreted as a number if no class has this
    /// name.
    Name(String),
}

impl FromStr for ClassSelector {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::Name(text.into()))
    }
}

/// The classes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// Number of classes.
    pub count: usize,
    /// Names of the classes, ordered by number; there may be fewer, or none.
    pub names: &'a [String],
    /// Whether each one is a comma-separated list of names.
    pub listed: bool,
}

impl Classes<'_> {
    /// The number of the selected class: names take precedence over numbers.
    ///
    /// # Errors
    /// If there is no such class, or the name is ambiguous.
    pub fn find(&self, class: &ClassSelector) -> Result<usize, String> {
        let text = match class {
            ClassSelector::Index(i) => return self.numbered(*i),
            ClassSelector::Name(text) => text,
        };
        let whole = |name: &String| name == text;
        let caseless = |name: &str| name.trim().to_lowercase() == text.trim().to_lowercase();
        let any = |name: &String| caseless(name) || self.listed && name.split(',').any(caseless);
        let matching = |is: &dyn Fn(&String) -> bool| -> Vec<usize> {
            let all = self.names.iter().enumerate().take(self.count);
            all.filter(|(_, name)| is(name)).map(|(i, _)| i).collect()
        };
        let exact = matching(&whole);
        let found = if exact.is_empty() { matching(&any) } else { exact };
        match (&found[..], text.trim().parse()) {
            ([one], _) => Ok(*one),
            ([], Ok(number)) => self.numbered(number),
            ([], Err(_)) => Err(match self.names {
                [] => {
                    let last = self.count.saturating_sub(1);
                    format!(
                        "`{text}`: this model's classes have no names; expected a number from 0 to {last}"
                    )
                }
                names => format!("unknown class `{text}`; expected one of {}", listed(names)),
            }),
            (several, _) => {
                let numbers: Vec<_> = several.iter().map(usize::to_string).collect();
                Err(format!(
                    "`{text}` is the name of several classes, {}; select one by its number",
                    numbers.join(", ")
                ))
            }
        }
    }

    /// How `class` was interpreted if its text could be a name or a number; `None` if it is unambiguous.
    pub fn explain(&self, class: &ClassSelector) -> Option<String> {
        let ClassSelector::Name(text) = class else { return None };
        let number: usize = text.trim().parse().ok()?;
        let found = self.find(class).ok()?;
        let name = self.names.get(found)?;
        match found == number {
            true if name == text => None,
            true => {
                Some(format!("class {text}: no class has this name; using class number {text}, `{name}`"))
            }
            false => Some(format!("class {text}: using the class with this name, number {found}")),
        }
    }

    fn numbered(&self, number: usize) -> Result<usize, String> {
        match number < self.count {
            true => Ok(number),
            false => Err(format!(
                "class {number} is out of range; this model has the classes 0 to {}",
                self.count.saturating_sub(1)
            )),
        }
    }
}

/// The first names, for a message.
fn listed(names: &[String]) -> String {
    const MOST: usize = 40;
    let shown = names[..names.len().min(MOST)].join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn of(text: &str) -> ClassSelector {
        text.parse().unwrap()
    }

    #[test]
    fn names_come_before_numbers() {
        // Folders ordered by name.
        let names = names(&["0", "1", "10", "11", "2"]);
        let classes = Classes { count: 6, names: &names, listed: false };
        for (text, number) in [("0", 0), ("2", 4), ("10", 2), ("5", 5), (" 2 ", 4)] {
            assert_eq!(classes.find(&of(text)), Ok(number), "{text}");
        }
        assert_eq!(classes.find(&ClassSelector::Index(2)), Ok(2));
        assert!(classes.find(&of("7")).unwrap_err().contains("0 to 5"));
        assert!(classes.explain(&of("2")).unwrap().contains("with this name, number 4"));
        assert_eq!(classes.explain(&of("1")), None);
        assert_eq!(classes.explain(&ClassSelector::Index(2)), None);
        let names = self::names(&["cat", "dog"]);
        let classes = Classes { count: 2, names: &names, listed: false };
        assert!(classes.explain(&of("1")).unwrap().contains("number 1, `dog`"));
        assert_eq!(classes.explain(&of("dog")), None);
    }

    #[test]
    fn a_name_that_could_mean_several_is_refused() {
        let names = names(&["Crane, bird", "crane", "Crane", "crane, machine", "hen, chick"]);
        let plain = Classes { count: 5, names: &names, listed: false };
        assert_eq!((plain.find(&of("crane")), plain.find(&of("Crane"))), (Ok(1), Ok(2)));
        assert!(plain.find(&of("CRANE")).unwrap_err().contains("1, 2"));
        assert!(plain.find(&of("chick")).unwrap_err().contains("expected one of"));
        let listed = Classes { listed: true, ..plain };
        assert_eq!((listed.find(&of("Chick")), listed.find(&of("bird"))), (Ok(4), Ok(0)));
        assert!(listed.find(&of("CRANE")).unwrap_err().contains("0, 1, 2, 3"));
    }

    #[test]
    fn texts_in_json_are_names_and_numbers_are_numbers() {
        let read = |json: &str| serde_json::from_str::<ClassSelector>(json).unwrap();
        assert_eq!((read("2"), read("\"2\"")), (ClassSelector::Index(2), ClassSelector::Name("2".into())));
    }
}
