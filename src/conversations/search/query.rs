//! The words of a search as a query of Postgres, in the form that the index has.
//!
//! # Words
//!
//! Postgres' parser takes `sess.opts`, `src/main.rs` and a URL for one word each, drops `<String>` as a tag, and sees one word in
//! a whole sentence of Chinese. So the text is cut before it is parsed, in a document and in a query alike: each ASCII
//! punctuation is a space, and each character of a [script without spaces](UNSPACED) is written twice with a space in between.
//! A run of those becomes its first character, all pairs, and its last character: 上海东 is 上, 上海, 海东, 东.
//!
//! Words without a space between them are searched as a phrase: `sess.opts` as `sess` followed by `opts`. So a whole is found, and so is each
//! of its parts. Pairs are searched as a phrase of pairs, and a single character as the beginning of a pair.
//!
//! # Syntax
//!
//! Words side by side must all be there; `"…"` is a phrase, `-` in front rules out, and `or` between two separates alternatives.
//! Anything else is text: there is no query that is an error. (Postgres' own `websearch_to_tsquery` fails for 33 dashes.)

use std::fmt::Write;

/// The longest word, in bytes. Postgres keeps no longer ones than 2,046, and small letters may take half as many bytes again.
const MAX_WORD_BYTES: usize = 1_300;

/// Ranges of characters of scripts without spaces, or whose words take endings without one: Thai, Lao, Burmese, Khmer,
/// iteration marks, Hiragana, Katakana, Han, Hangul.
const UNSPACED: [(char, char); 16] = [
    ('\u{e00}', '\u{eff}'),
    ('\u{1000}', '\u{109f}'),
    ('\u{1780}', '\u{17ff}'),
    ('\u{3005}', '\u{3007}'),
    ('\u{3040}', '\u{309f}'),
    ('\u{30a1}', '\u{30fa}'),
    ('\u{30fc}', '\u{30ff}'),
    ('\u{31f0}', '\u{31ff}'),
    ('\u{3400}', '\u{4dbf}'),
    ('\u{4e00}', '\u{9fff}'),
    ('\u{ac00}', '\u{d7a3}'),
    ('\u{f900}', '\u{faff}'),
    ('\u{ff66}', '\u{ff9f}'),
    ('\u{20000}', '\u{2fa1f}'),
    ('\u{30000}', '\u{323af}'),
    ('\u{aa60}', '\u{aa7f}'),
];

fn is_unspaced(c: char) -> bool {
    UNSPACED.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || c.is_control() || c.is_ascii_punctuation()
}

/// [`UNSPACED`] as the inside of a bracket expression of Postgres.
pub(super) fn unspaced_class() -> String {
    UNSPACED.iter().fold(String::new(), |mut class, (first, last)| {
        let _infallible = write!(class, "{first}-{last}");
        class
    })
}

/// SQL for `text` with a space for each ASCII punctuation. (A `replace` for each costs a microsecond a KiB, `translate` ten
/// times as much in all.)
pub(super) fn without_punctuation(text: &str) -> String {
    let punctuation = (0..=127_u8).filter(u8::is_ascii_punctuation);
    punctuation.fold(text.to_owned(), |sql, code| format!("replace({sql}, chr({code}), ' ')"))
}

/// An item between spaces.
enum Item<'a> {
    Or,
    Term { text: &'a str, is_negated: bool },
}

/// The argument of `to_tsquery('simple', …)` for the words of a search; empty if they name no word.
pub(in crate::conversations) fn tsquery(words: &str) -> String {
    let items = items(words);
    let mut alternatives: Vec<Vec<String>> = vec![Vec::new()];
    let mut impossible = vec![false];
    for (index, item) in items.iter().enumerate() {
        let (text, is_negated) = match item {
            Item::Term { text, is_negated } => (*text, *is_negated),
            // It separates what stands on both its sides; elsewhere it is a word.
            Item::Or if is_between(&items, index) => {
                alternatives.push(Vec::new());
                impossible.push(false);
                continue;
            }
            Item::Or => ("or", false),
        };
        let (Some(all), Some(is_impossible)) = (alternatives.last_mut(), impossible.last_mut()) else {
            continue;
        };
        match term(text) {
            Some(Term::Operand(operand)) => {
                all.push(if is_negated { format!("!{operand}") } else { operand });
            }
            Some(Term::TooLong) => *is_impossible |= !is_negated,
            None => {}
        }
    }
    let possible =
        alternatives.iter().zip(impossible).filter(|(all, is_impossible)| !all.is_empty() && !is_impossible);
    possible.map(|(all, _)| all.join(" & ")).collect::<Vec<String>>().join(" | ")
}

fn is_between(items: &[Item<'_>], index: usize) -> bool {
    let is_term = |index: Option<usize>| {
        index.and_then(|index| items.get(index)).is_some_and(|item| matches!(item, Item::Term { .. }))
    };
    is_term(index.checked_sub(1)) && is_term(index.checked_add(1))
}

fn items(words: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut rest = words;
    loop {
        rest = rest.trim_start();
        // Two dashes begin an option, as in --release.
        let ruled_out = rest
            .strip_prefix('-')
            .filter(|text| text.chars().next().is_some_and(|c| c != '-' && !c.is_whitespace()));
        let (is_negated, text) = ruled_out.map_or((false, rest), |text| (true, text));
        let (text, behind) = if let Some(phrase) = text.strip_prefix('"') {
            phrase.split_once('"').unwrap_or((phrase, ""))
        } else {
            let end = text.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(text.len());
            let (word, behind) = text.split_at_checked(end).unwrap_or((text, ""));
            if word.is_empty() && behind.is_empty() {
                return items;
            }
            if word.eq_ignore_ascii_case("or") && !is_negated {
                items.push(Item::Or);
                rest = behind;
                continue;
            }
            (word, behind)
        };
        items.push(Item::Term { text, is_negated });
        rest = behind;
    }
}

enum Term {
    /// An operand of `to_tsquery`.
    Operand(String),
    /// It has a word that is longer than Postgres keeps, so no document has it.
    TooLong,
}

/// What a term asks for; nothing if there is no word in it.
fn term(text: &str) -> Option<Term> {
    // Runs of one kind of character, cut where the kind changes too.
    let mut runs: Vec<&str> = Vec::new();
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        let mut start = 0;
        let mut kind = None;
        for (at, c) in word.char_indices() {
            if kind.replace(is_unspaced(c)).is_some_and(|before| before != is_unspaced(c)) {
                runs.extend(word.get(start..at));
                start = at;
            }
        }
        runs.extend(word.get(start..));
    }
    let mut parts: Vec<&str> = Vec::new();
    for (index, run) in runs.iter().copied().enumerate() {
        if !run.starts_with(is_unspaced) {
            if run.len() > MAX_WORD_BYTES {
                return Some(Term::TooLong);
            }
            parts.push(run);
            continue;
        }
        let starts: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
        let between = |from: usize, to: usize| run.get(*starts.get(from)?..*starts.get(to)?);
        let count = starts.len() - 1;
        if count == 1 && runs.len() == 1 {
            return Some(Term::Operand(format!("'{run}':*")));
        }
        // The run begins and ends in the document where the query's does, if something stands beside it.
        if index > 0 {
            parts.extend(between(0, 1));
        }
        parts.extend((2..=count).filter_map(|end| between(end - 2, end)));
        if index + 1 < runs.len() {
            parts.extend(between(count - 1, count));
        }
    }
    (!parts.is_empty()).then(|| Term::Operand(format!("'{}'", parts.join(" "))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_phrases_and_alternatives_become_operands() {
        let cases = [
            ("harbour -boat", "'harbour' & !'boat'"),
            ("\"leave the\" a or -\"b c\" d", "'leave the' & 'a' | !'b c' & 'd'"),
            ("sess.opts Vec<String>", "'sess opts' & 'Vec String'"),
            ("https://a.b/c?d=e", "'https a b c d e'"),
            ("foo-bar --release don't", "'foo bar' & 'release' & 'don t'"),
            ("or", "'or'"),
            ("or a OR or b or", "'or' & 'a' & 'or' & 'or' & 'b' & 'or'"),
            ("a or b", "'a' | 'b'"),
            ("\"open end", "'open end'"),
            ("上海", "'上海'"),
            ("上海东", "'上海 海东'"),
            ("上", "'上':*"),
            ("-上", "!'上':*"),
            ("Rust编程 a上b", "'Rust 编 编程' & 'a 上 上 b'"),
            ("上，海", "'上 ， 海'"),
            ("'):*&|!\\", ""),
            (" - \" ", ""),
        ];
        for (words, query) in cases {
            assert_eq!(tsquery(words), query, "{words}");
        }
        assert_eq!(tsquery(&"-".repeat(33)), "");
        let long = "x".repeat(1_301);
        assert_eq!(tsquery(&format!("a {long} or b -{long}")), "'b'");
    }

    proptest! {
        #[test]
        fn a_query_holds_no_punctuation_of_the_clients(words in "[-\"' or上海ab.:*&|!()<>\\\\]{0,60}|\\PC{0,60}") {
            let query = tsquery(&words);
            let mut operators: String = query.clone();
            for (index, text) in query.split('\'').enumerate() {
                if index % 2 == 1 {
                    prop_assert!(!text.contains(|c: char| c.is_ascii_punctuation()), "{}", query);
                    operators = operators.replacen(&format!("'{text}'"), "x", 1);
                }
            }
            prop_assert!(operators.split(" | ").flat_map(|all| all.split(" & ")).all(|one|
                ["", "x", "!x", "x:*", "!x:*"].contains(&one)), "{}", query);
        }
    }
}
