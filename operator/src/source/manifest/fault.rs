//! What is wrong at one place of a manifest, in words that say what to write instead.

use std::fmt;

use super::node::Place;

/// Something wrong with a value: where in the document, what, and what to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fault {
    /// Unknown until the deserializer that knows the place adds it.
    pub(super) place: Option<Place>,
    /// Path of the field, outermost last while it is being built.
    path_reversed: Vec<Segment>,
    pub(super) reason: String,
    pub(super) remedy: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

impl Fault {
    pub(super) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into(), ..Self::default() }
    }

    /// Keeps the innermost place.
    pub(super) fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    pub(super) fn under(mut self, key: &str) -> Self {
        self.path_reversed.push(Segment::Key(key.to_owned()));
        self
    }

    pub(super) fn item(mut self, index: usize) -> Self {
        self.path_reversed.push(Segment::Index(index));
        self
    }

    /// `limits.cpu`, `match[0].hosts`; empty for the whole document. `spec` goes without saying.
    pub(super) fn field(&self) -> String {
        let mut path = String::new();
        for segment in self.path_reversed.iter().rev() {
            match segment {
                Segment::Key(key) if path.is_empty() && key == "spec" => {}
                Segment::Key(key) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Segment::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    /// The outermost item of a list on the way to the field.
    pub(super) fn first_index(&self) -> Option<usize> {
        self.path_reversed.iter().rev().find_map(|segment| match segment {
            Segment::Index(index) => Some(*index),
            Segment::Key(_) => None,
        })
    }

    /// From a sentence such as "`5` is no span: write 5s".
    pub(super) fn sentence(text: &str) -> Self {
        match text.split_once(": ").or_else(|| text.split_once("; ")) {
            Some((reason, remedy)) => Self::new(reason, remedy),
            None => Self::new(text, ""),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Fault {}

fn names(expected: &[&str]) -> String {
    match expected {
        [] => "leave it out".to_owned(),
        [one] => format!("write {one}"),
        [one, other] => format!("write {one} or {other}"),
        [init @ .., last] => format!("write one of {} or {last}", init.join(", ")),
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::sentence(&message.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("there is no field `{}` here", clip(field)), names(expected))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("`{}` is not known here", clip(variant)), names(expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("`{field}` is missing"), format!("add {field}"))
    }

    fn invalid_type(unexpected: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new(format!("is {}", shown(&unexpected)), format!("write {}", wanted(&expected.to_string())))
    }

    fn invalid_value(unexpected: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new(format!("{} does not fit", shown(&unexpected)), format!("write {}", wanted(&expected.to_string())))
    }
}

fn shown(unexpected: &serde::de::Unexpected<'_>) -> String {
    use serde::de::Unexpected as U;
    match unexpected {
        U::Bool(b) => format!("`{b}`"),
        U::Unsigned(n) => format!("the number `{n}`"),
        U::Signed(n) => format!("the number `{n}`"),
        U::Float(n) => format!("the number `{n}`"),
        U::Char(c) => format!("the text `{c}`"),
        U::Str(s) => format!("the text `{}`", clip(s)),
        U::Unit | U::Option => "empty".to_owned(),
        U::Seq => "a list".to_owned(),
        U::Map => "a map".to_owned(),
        U::Bytes(_)
        | U::NewtypeStruct
        | U::Enum
        | U::UnitVariant
        | U::NewtypeVariant
        | U::TupleVariant
        | U::StructVariant
        | U::Other(_) => "something else".to_owned(),
    }
}

/// serde's words for what it expected, in ours.
fn wanted(expected: &str) -> String {
    match expected {
        "a string" | "string" => "text; a number or true needs quotes to be text".to_owned(),
        "a sequence" => "a list, each item after `- `".to_owned(),
        "a map" => "keys and values".to_owned(),
        "i32" => "a whole number from -2147483648 to 2147483647".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" => "a whole number, 0 or more".to_owned(),
        other if other.starts_with("struct ") => "keys and values".to_owned(),
        other => other.to_owned(),
    }
}

/// What someone wrote, short and printable: it goes into status and logs.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}
