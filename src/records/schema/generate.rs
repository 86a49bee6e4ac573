//! Random texts of a regular expression, for fields with an `autogeneratePattern`. They may be secrets, so the system's randomness makes them.

use regex_syntax::hir::{Class, Hir, HirKind};

/// The most characters of a made text.
const MAX_CHARACTERS: usize = 300;
/// The most repetitions where a pattern has no limit, beyond its least.
const MAX_MORE: u32 = 10;
/// The most parts of the pattern that are written, each as often as it is repeated. Empty ones add no characters.
const MAX_STEPS: u32 = 10_000;

/// A random text that a pattern describes. `None`: it is no regular expression, or asks for too long a text, or the system has no randomness.
pub fn generate(pattern: &str) -> Option<String> {
    let hir = regex_syntax::parse(pattern).ok()?;
    let (mut text, mut steps) = (String::new(), 0);
    write(&hir, &mut text, &mut steps)?;
    (text.chars().count() <= MAX_CHARACTERS).then_some(text)
}

/// A random number below another one. 64 bits are reduced, of which no place is likelier than others by more than 2^-40.
fn below(end: u64) -> Option<u64> {
    match end {
        0 => None,
        1 => Some(0),
        end => Some(getrandom::u64().ok()? % end),
    }
}

fn write(hir: &Hir, text: &mut String, steps: &mut u32) -> Option<()> {
    *steps += 1;
    if *steps > MAX_STEPS || text.len() > 4 * MAX_CHARACTERS {
        return None;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(class) => text.push(character(class)?),
        HirKind::Capture(capture) => write(&capture.sub, text, steps)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write(part, text, steps))?,
        HirKind::Alternation(parts) => write(parts.get(below(parts.len() as u64)? as usize)?, text, steps)?,
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(repetition.min.saturating_add(MAX_MORE));
            if repetition.min as usize > MAX_CHARACTERS {
                return None;
            }
            let most = most.min(repetition.min.saturating_add(MAX_CHARACTERS as u32));
            let more = u64::from(most.saturating_sub(repetition.min));
            for _ in 0..u64::from(repetition.min) + below(more + 1)? {
                write(&repetition.sub, text, steps)?;
            }
        }
    }
    Some(())
}

/// A character of a class; each is as likely as the others.
fn character(class: &Class) -> Option<char> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => {
            class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
        }
        Class::Bytes(class) => {
            class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
        }
    };
    let total: u32 = ranges.iter().map(|(start, end)| end - start + 1).sum();
    if total == 0 {
        return None;
    }
    let mut at = below(u64::from(total))? as u32;
    for (start, end) in ranges {
        let length = end - start + 1;
        if at < length {
            // A surrogate is no character: the range goes around them.
            return char::from_u32(start + at).or_else(|| char::from_u32(start));
        }
        at -= length;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    proptest! {
        #[test]
        fn a_made_text_has_its_pattern(at in 0_usize..6) {
            let pattern =
                ["[a-z0-9]{15}", "[a-zA-Z0-9]{50}", "(ab|c)+d?", r"\d{2}-\w{3,5}", "x*", "[ä-ü]{3}"][at];
            let text = generate(pattern).unwrap();
            prop_assert!(Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(&text), "{}", text);
        }

        #[test]
        fn no_pattern_makes_it_panic_or_run_away(pattern in ".{0,20}", near in r"[a-c(){}\[\]*+?|^$\\.0-9-]{0,16}") {
            for pattern in [pattern, near] {
                prop_assert!(generate(&pattern).is_none_or(|text| text.chars().count() <= MAX_CHARACTERS));
            }
        }
    }

    #[test]
    fn too_long_texts_are_not_made() {
        assert_eq!(generate("a{301}"), None);
        assert_eq!(generate("((a{100}){100}){100}"), None);
        assert_eq!(generate("("), None);
        // Without characters, and without 27 million steps.
        assert_eq!(generate(r"((\b{300}){300}){300}").unwrap_or_default(), "");
    }
}
