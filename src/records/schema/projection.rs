//! `fields`: the members that an answer shows: `id,author.name,*,text:excerpt(200,true)`.

use serde_json::{Map, Value};

/// The longest text of `fields`, in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// The most parts between dots.
const MAX_PARTS: usize = 16;

/// The members that an answer shows; none are shown by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projection {
    /// `*`: all members that have no entry of their own.
    is_all: bool,
    /// `None`: the whole member.
    members: Vec<(String, Option<Projection>, Option<Excerpt>)>,
}

/// The beginning of a text without its markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Excerpt {
    characters: usize,
    has_ellipsis: bool,
}

impl Projection {
    /// Parses a list of names. `None`: a modifier is unknown or has bad arguments. An empty list is `Some(None)`: everything.
    pub fn parse(text: &str) -> Option<Option<Self>> {
        if text.trim().is_empty() {
            return Some(None);
        }
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut projection = Self::default();
        for name in split(text) {
            let (path, excerpt) = match name.split_once(':') {
                None => (name, None),
                Some((path, modifier)) => (path, Some(Excerpt::parse(modifier)?)),
            };
            let parts: Vec<&str> = path.trim().split('.').collect();
            if parts.len() > MAX_PARTS {
                return None;
            }
            projection.add(&parts, excerpt);
        }
        Some(Some(projection))
    }

    fn add(&mut self, parts: &[&str], excerpt: Option<Excerpt>) {
        match parts {
            ["*"] => self.is_all = true,
            [name, rest @ ..] => {
                let place = self.members.iter().position(|(known, ..)| known == name);
                let place = place.unwrap_or_else(|| {
                    self.members.push(((*name).to_owned(), Some(Self::default()), None));
                    self.members.len() - 1
                });
                let Some((_, inner, of_member)) = self.members.get_mut(place) else { return };
                match (rest, inner.as_mut()) {
                    ([], _) => (*inner, *of_member) = (None, excerpt.or(*of_member)),
                    (_, Some(inner)) => inner.add(rest, excerpt),
                    // The whole member is shown already.
                    (_, None) => {}
                }
            }
            [] => {}
        }
    }

    /// The shown part of a value; lists are shown by element.
    pub fn apply(&self, value: &Value) -> Value {
        match value {
            Value::Array(values) => values.iter().map(|value| self.apply(value)).collect(),
            Value::Object(members) => Value::Object(self.apply_to(members)),
            other => other.clone(),
        }
    }

    /// The shown members.
    pub fn apply_to(&self, members: &Map<String, Value>) -> Map<String, Value> {
        let mut shown = if self.is_all { members.clone() } else { Map::new() };
        for (name, inner, excerpt) in &self.members {
            let Some(value) = members.get(name) else { continue };
            let value = match (inner, excerpt, value) {
                (Some(inner), ..) => inner.apply(value),
                (None, Some(excerpt), Value::String(text)) => excerpt.of(text).into(),
                (None, ..) => value.clone(),
            };
            shown.insert(name.clone(), value);
        }
        shown
    }
}

/// The names of a list; commas within parentheses separate none.
fn split(text: &str) -> Vec<&str> {
    let (mut names, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                names.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.extend(text.get(start..));
    names.into_iter().map(str::trim).filter(|name| !name.is_empty()).collect()
}

impl Excerpt {
    fn parse(modifier: &str) -> Option<Self> {
        let arguments = modifier.trim().strip_prefix("excerpt(")?.strip_suffix(')')?;
        let (characters, ellipsis) = arguments.split_once(',').unwrap_or((arguments, "false"));
        let characters = characters.trim().parse().ok().filter(|characters| *characters > 0)?;
        let has_ellipsis = match ellipsis.trim() {
            "true" | "1" => true,
            "false" | "0" | "" => false,
            _ => return None,
        };
        Some(Self { characters, has_ellipsis })
    }

    fn of(self, text: &str) -> String {
        let plain = plain(text);
        let mut excerpt: String = plain.chars().take(self.characters).collect();
        if excerpt.len() < plain.len() {
            excerpt.truncate(excerpt.trim_end().len());
            if self.has_ellipsis {
                excerpt.push_str("...");
            }
        }
        excerpt
    }
}

/// A text without its tags and scripts, with single spaces.
fn plain(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once('<') {
        words.push_str(before);
        if !tag.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!')) {
            words.push('<');
            rest = tag;
            continue;
        }
        let Some((_, behind)) = tag.split_once('>') else {
            // No further tag ends either.
            words.push('<');
            rest = tag;
            break;
        };
        words.push(' ');
        rest = behind;
        for name in ["script", "style"] {
            if starts_with(tag, name) {
                let end = format!("</{name}");
                let close = rest
                    .as_bytes()
                    .windows(end.len())
                    .position(|window| window.eq_ignore_ascii_case(end.as_bytes()));
                rest = close.and_then(|close| rest.get(close..)).unwrap_or_default();
            }
        }
    }
    words.push_str(rest);
    let words = words.replace("&nbsp;", " ");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn starts_with(text: &str, name: &str) -> bool {
    text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn shown(fields: &str, value: &Value) -> Option<Value> {
        Some(match Projection::parse(fields)? {
            None => value.clone(),
            Some(projection) => projection.apply(value),
        })
    }

    #[test]
    fn members_are_chosen_by_their_paths() {
        let value = json!({"id": "a", "t": "hello world", "j": {"a": [{"b": 1, "c": 2}, {"b": 3}]}});
        for (fields, expected) in [
            ("", value.clone()),
            ("*", value.clone()),
            ("nothing", json!({})),
            ("id, t", json!({"id": "a", "t": "hello world"})),
            ("j.a.b", json!({"j": {"a": [{"b": 1}, {"b": 3}]}})),
            ("j.*", json!({"j": {"a": [{"b": 1, "c": 2}, {"b": 3}]}})),
            ("j.a.b,j", json!({"j": {"a": [{"b": 1, "c": 2}, {"b": 3}]}})),
            ("id,t:excerpt(5)", json!({"id": "a", "t": "hello"})),
            ("t:excerpt(6,true)", json!({"t": "hello..."})),
            ("t:excerpt(50, true)", json!({"t": "hello world"})),
        ] {
            assert_eq!(shown(fields, &value), Some(expected), "{fields}");
        }
        assert_eq!(shown("*,t:excerpt(5)", &value).unwrap()["t"], "hello");
        assert_eq!(shown("j:excerpt(3)", &value).unwrap()["j"], value["j"]);
        for bad in ["t:nope", "t:excerpt", "t:excerpt()", "t:excerpt(0)", "t:excerpt(-1)", "t:excerpt(x)"] {
            assert_eq!(shown(bad, &value), None, "{bad}");
        }
    }

    #[test]
    fn an_excerpt_has_no_markup() {
        let text = "<p>Hello,&nbsp;<b>you</b></p><script>alert('<b>')</script>\n\n<style>p{}</style> 1 < 2";
        assert_eq!(plain(text), "Hello, you 1 < 2");
        assert_eq!(plain("<SCRIPT>never closed"), "");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(fields in ".{0,40}", near in "[a-c*.,:( )]{0,20}", text in "[<>/!scriptSé&;nb ]{0,40}") {
            let value = json!({"a": {"b": text}, "c": [text]});
            let _ = shown(&fields, &value);
            let _ = shown(&near, &value);
            let _ = shown(&format!("*,a.b:excerpt(3,true),{near}"), &value);
        }
    }
}
