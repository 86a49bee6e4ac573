//! Unicode forms of names and passwords.
//!
//! One text can be typed as several sequences of characters: `é` is one character on one keyboard and two on another. Stored
//! and hashed texts are in NFC. Rate limits use [`folded`], which is coarser: two spellings that can find one account have one
//! form, whatever Postgres' collation does with upper and lower case.

use unicode_normalization::UnicodeNormalization;

/// Combining dot above: `İ` is an `I` with it, which some collations keep in lower case and others drop.
const DOT_ABOVE: char = '\u{307}';

/// The composed form (NFC).
pub(super) fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// The decomposed form (NFD).
pub(super) fn decomposed(text: &str) -> String {
    text.nfd().collect()
}

/// The form for rate limits: without case, compatibility characters and dots above.
pub(super) fn folded(text: &str) -> String {
    let plain = |text: &str| text.nfkd().filter(|c| *c != DOT_ABOVE).collect::<String>();
    // Both directions, as some characters have a counterpart in one direction only: `ſ`, `ß`, `ı`.
    plain(&plain(text).to_lowercase().to_uppercase().to_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_name_have_one_form() {
        for (one, other) in [
            ("ada@example.com", "ADA@Example.COM"),
            ("\u{130}da@x", "ida@x"),
            ("i\u{307}da@x", "ida@x"),
            ("\u{131}da@x", "IDA@x"),
            ("Jose\u{301}@x", "jos\u{e9}@x"),
            ("\u{ff21}da@x", "ada@x"),
            ("\u{212a}im@x", "kim@x"),
            ("stra\u{df}e@x", "STRASSE@x"),
            ("stra\u{1e9e}e@x", "strasse@x"),
            ("\u{17f}am@x", "Sam@x"),
            ("\u{39f}\u{3a3}@x", "\u{3bf}\u{3c2}@x"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        assert_ne!(folded("ada@x"), folded("bda@x"));
        assert_ne!(folded("jos\u{e9}@x"), folded("jose@x"), "an accent distinguishes two people");
    }

    #[test]
    fn no_character_has_two_forms_by_its_case_or_its_composition() {
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let form = folded(&text);
            for other in
                [text.to_lowercase(), text.to_uppercase(), composed(&text), decomposed(&text), form.clone()]
            {
                assert_eq!(folded(&other), form, "{c:?} {other:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn forms_are_stable(text in any::<String>()) {
            prop_assert_eq!(folded(&folded(&text)), folded(&text));
            prop_assert_eq!(folded(&decomposed(&text)), folded(&composed(&text)));
            prop_assert_eq!(composed(&decomposed(&text)), composed(&text));
        }
    }
}
