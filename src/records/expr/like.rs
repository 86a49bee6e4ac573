//! The patterns of `~`.

use memchr::memmem;

use super::evaluate::{TooMuchWork, Work};

/// A pattern in lower ASCII letters, cut at its `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Like {
    /// At least one; texts and single characters in between.
    pieces: Vec<Piece>,
    /// Whether anything may stand before the first piece, and behind the last one.
    is_open: (bool, bool),
}

/// A part of a pattern that has one length in characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Piece {
    parts: Vec<Part>,
    characters: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Any one character.
    One,
}

/// An element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Literal(char),
}

impl Like {
    /// The pattern of a literal: with an unescaped `%` as it stands, else everything that contains it.
    pub(super) fn of_literal(text: &str) -> Self {
        let mut tokens = Vec::new();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '\\' => {
                    let escaped = characters.next_if(|next| matches!(next, '%' | '_' | '\\'));
                    Token::Literal(escaped.unwrap_or('\\'))
                }
                '%' => Token::Any,
                '_' => Token::One,
                character => Token::Literal(character),
            });
        }
        if !tokens.contains(&Token::Any) {
            for token in &mut tokens {
                if *token == Token::One {
                    *token = Token::Literal('_');
                }
            }
            tokens.insert(0, Token::Any);
            tokens.push(Token::Any);
        }
        Self::of_tokens(&tokens)
    }

    /// The pattern of a field's text, within `%`, as SQL's `like` reads it.
    pub(super) fn of_field(text: &str) -> Self {
        let mut tokens = vec![Token::Any];
        // A backslash at the end escapes the last `%`.
        let mut characters = text.chars().chain(['%']);
        while let Some(character) = characters.next() {
            match character {
                '\\' => tokens.extend(characters.next().map(Token::Literal)),
                '%' => tokens.push(Token::Any),
                '_' => tokens.push(Token::One),
                character => tokens.push(Token::Literal(character)),
            }
        }
        Self::of_tokens(&tokens)
    }

    fn of_tokens(tokens: &[Token]) -> Self {
        let mut pieces = vec![Piece::default()];
        for token in tokens {
            match token {
                Token::Any => pieces.push(Piece::default()),
                token => {
                    if let Some(piece) = pieces.last_mut() {
                        piece.push(*token);
                    }
                }
            }
        }
        let is_open = (tokens.first() == Some(&Token::Any), tokens.last() == Some(&Token::Any));
        if pieces.len() > 1 {
            // Empty pieces between two `%` match anywhere.
            pieces.retain(|piece| piece.characters > 0);
        }
        Self { pieces, is_open }
    }

    /// The same pattern for SQL's `ilike`.
    pub(super) fn sql(&self) -> String {
        let mut pattern = String::new();
        if self.is_open.0 {
            pattern.push('%');
        }
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                pattern.push('%');
            }
            for part in &piece.parts {
                match part {
                    Part::One => pattern.push('_'),
                    Part::Text(text) => {
                        for character in text.chars() {
                            if matches!(character, '%' | '_' | '\\') {
                                pattern.push('\\');
                            }
                            pattern.push(character);
                        }
                    }
                }
            }
        }
        if self.is_open.1 {
            pattern.push('%');
        }
        pattern
    }

    /// Whether a text matches.
    pub(super) fn matches(&self, text: &str, work: &mut Work) -> Result<bool, TooMuchWork> {
        work.read(text.len())?;
        let lower = text.to_ascii_lowercase();
        let mut rest = lower.as_str();
        let mut pieces = self.pieces.as_slice();
        if !self.is_open.0
            && let Some((first, others)) = pieces.split_first()
        {
            let Some(behind) = first.prefix_of(rest) else { return Ok(false) };
            if others.is_empty() && !self.is_open.1 {
                return Ok(behind.is_empty());
            }
            (rest, pieces) = (behind, others);
        }
        let mut last = None;
        if !self.is_open.1 {
            (last, pieces) =
                pieces.split_last().map_or((None, pieces), |(last, others)| (Some(last), others));
        }
        for piece in pieces {
            let Some(behind) = piece.find_in(rest, work)? else { return Ok(false) };
            rest = behind;
        }
        Ok(last.is_none_or(|last| last.is_suffix_of(rest)))
    }
}

impl Piece {
    fn push(&mut self, token: Token) {
        self.characters += 1;
        match (token, self.parts.last_mut()) {
            (Token::Literal(character), Some(Part::Text(text))) => text.push(character.to_ascii_lowercase()),
            (Token::Literal(character), _) => {
                self.parts.push(Part::Text(character.to_ascii_lowercase().into()));
            }
            (Token::One | Token::Any, _) => self.parts.push(Part::One),
        }
    }

    /// The text behind this piece, if the text begins with it.
    fn prefix_of<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.parts.iter().try_fold(text, |rest, part| match part {
            Part::Text(text) => rest.strip_prefix(text.as_str()),
            Part::One => {
                let mut characters = rest.chars();
                characters.next().map(|_| characters.as_str())
            }
        })
    }

    fn is_suffix_of(&self, text: &str) -> bool {
        if self.characters == 0 {
            return true;
        }
        let start = text.char_indices().rev().nth(self.characters - 1).map(|(at, _)| at);
        start.and_then(|at| text.get(at..)).is_some_and(|end| self.prefix_of(end) == Some(""))
    }

    /// The text behind the first place of this piece.
    fn find_in<'a>(&self, text: &'a str, work: &mut Work) -> Result<Option<&'a str>, TooMuchWork> {
        match self.parts.as_slice() {
            [] => Ok(Some(text)),
            [Part::Text(wanted)] => {
                work.read(text.len())?;
                let at = memmem::find(text.as_bytes(), wanted.as_bytes());
                Ok(at.and_then(|at| text.get(at + wanted.len()..)))
            }
            _ => {
                for (at, _) in text.char_indices() {
                    work.read(self.characters)?;
                    let rest = text.get(at..).unwrap_or_default();
                    if let Some(behind) = self.prefix_of(rest) {
                        return Ok(Some(behind));
                    }
                }
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(like: &Like, text: &str) -> bool {
        like.matches(text, &mut Work::default()).unwrap()
    }

    #[test]
    fn a_literal_is_contained_or_is_a_pattern() {
        for (pattern, text, expected) in [
            ("b", "aBc", true),
            ("é", "É", false),
            ("", "", true),
            ("a_c", "abc", false),
            ("a_c", "xA_cx", true),
            ("a_c%", "abcd", true),
            ("a_c%", "xabcd", false),
            ("%b", "ab", true),
            ("%b", "ba", false),
            ("%", "", true),
            ("a%c", "ac", true),
            ("a%c", "a", false),
            ("ab%ba", "aba", false),
            ("%_é_%", "xéx", true),
            (r"50\%", "a 50% b", true),
            (r"50\%", "505", false),
            (r"c:\dir\", r"C:\DIR\x", true),
            (r"%\\", r"x\", true),
        ] {
            assert_eq!(matches(&Like::of_literal(pattern), text), expected, "{pattern} {text}");
        }
        assert_eq!(Like::of_literal(r"A_\%%").sql(), r"a_\%%");
        assert_eq!(Like::of_literal("a_").sql(), r"%a\_%");
    }

    #[test]
    fn a_field_is_a_pattern_within_wildcards() {
        assert!(matches(&Like::of_field("a_c"), "xabcx"));
        assert!(matches(&Like::of_field(r"a\"), "xa%"));
        assert!(!matches(&Like::of_field(r"a\"), "xa"));
        assert!(matches(&Like::of_field(r"\a"), "a"));
    }

    /// SQL's `like`, word for word.
    fn reference(text: &[char], pattern: &[Token]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((Token::Any, rest)) => (0..=text.len()).any(|at| reference(&text[at..], rest)),
            Some((Token::One, rest)) => !text.is_empty() && reference(&text[1..], rest),
            Some((Token::Literal(c), rest)) => text.first() == Some(c) && reference(&text[1..], rest),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_sql_has_it(text in "[abé]{0,8}", pattern in "[abé%_]{0,6}") {
            let tokens: Vec<Token> = pattern.chars().map(|c| match c {
                '%' => Token::Any,
                '_' => Token::One,
                c => Token::Literal(c),
            }).collect();
            let text: Vec<char> = text.chars().collect();
            let found = matches(&Like::of_tokens(&tokens), &text.iter().collect::<String>());
            prop_assert_eq!(found, reference(&text, &tokens));
        }
    }
}
