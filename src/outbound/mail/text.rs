//! The text of a document, for readers that show no HTML.

/// Elements without text.
const SKIPPED: [&str; 4] = ["head", "style", "script", "title"];
/// Elements within a line; all others begin a new one.
const INLINE: [&str; 13] =
    ["a", "span", "small", "strike", "strong", "sub", "sup", "em", "b", "u", "i", "code", "img"];

/// The text of `html`: tags are left out, links are `[label](address)`, white space is one space.
pub(super) fn of_html(html: &str) -> String {
    let (mut text, mut rest) = (String::new(), html);
    let mut link: Option<String> = None;
    while let Some((before, behind)) = rest.split_once('<') {
        push(&mut text, before);
        if let Some(comment) = behind.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, behind)| behind);
            continue;
        }
        let (tag, behind) = behind.split_once('>').unwrap_or((behind, ""));
        rest = behind;
        let is_end = tag.starts_with('/');
        let name: String =
            tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        let name = name.to_ascii_lowercase();
        if SKIPPED.contains(&name.as_str()) && !is_end {
            rest = behind_end(rest, &name);
        } else if name == "a" && !is_end {
            link = attribute(tag, "href");
            text.push('[');
        } else if name == "a" {
            text.push(']');
            if let Some(address) = link.take() {
                text.push_str(&format!("({address})"));
            }
        } else if name == "br"
            || (!INLINE.contains(&name.as_str()) && !text.is_empty() && !text.ends_with('\n'))
        {
            text.push('\n');
        }
        if name == "li" && !is_end {
            text.push_str("- ");
        }
    }
    push(&mut text, rest);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim().to_owned()
}

/// Adds text, its white space as one space, none at the beginning of a line.
fn push(text: &mut String, part: &str) {
    for c in unescaped(part).chars() {
        match c.is_whitespace() {
            true if text.is_empty() || text.ends_with([' ', '\n']) => {}
            true => text.push(' '),
            false => text.push(c),
        }
    }
}

/// What follows the end of an element.
fn behind_end<'a>(rest: &'a str, name: &str) -> &'a str {
    let end = format!("</{name}");
    let lower = rest.to_ascii_lowercase();
    let found = lower.find(&end).and_then(|at| rest.get(at..)).and_then(|rest| rest.split_once('>'));
    found.map_or("", |(_, behind)| behind)
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, behind) = tag.split_once(&format!("{name}="))?;
    let quote = behind.chars().next().filter(|quote| matches!(quote, '"' | '\''));
    let value = match quote {
        Some(quote) => behind.get(1..)?.split(quote).next()?,
        None => behind.split_whitespace().next()?,
    };
    Some(unescaped(value)).filter(|value| !value.is_empty())
}

fn unescaped(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ];
    entities.into_iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_become_lines_with_links() {
        let html = "<!DOCTYPE html><html><head><style>p > a { color: red }</style><title>No</title></head>\n<body>\n  <p>Hello &amp; <b>welcome</b>,</p>\n\
                    <p>Click <a class=\"btn\" href=\"https://x.example/a?b=1&amp;c=2\">Verify</a><br/>Thanks</p><ul><li>one</li><li>two</li></ul><!-- <p>no --></body></html>";
        let expected = "Hello & welcome,\nClick [Verify](https://x.example/a?b=1&c=2)\nThanks\n- one\n- two";
        assert_eq!(of_html(html), expected);
        assert_eq!(of_html("plain < text"), "plain");
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(html in "[<>/a!\\-=\"'& éhrefliscrpt\n]{0,60}", any: String) {
            let _ = (of_html(&html), of_html(&any));
        }
    }
}
