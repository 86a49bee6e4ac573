//! What a parsed select does, from Postgres' node tree (`pg_rewrite.ev_action`).
//!
//! The tree is a text of nested `{NODE :field value …}`. Only names of nodes and a few fields are read; a backslash quotes the next character.

/// What a select does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether a row may depend on several events: the select, or a part of it that reads `batch`, aggregates, groups, sorts out or limits.
    pub(super) is_whole: bool,
    /// The ids of called functions.
    pub(super) functions: Vec<u32>,
}

/// One `{QUERY …}`.
#[derive(Debug, Default)]
struct Query {
    /// The nesting of its node.
    depth: usize,
    /// Whether its own level combines rows.
    combines: bool,
    /// Whether it, or a part of it, reads `batch`.
    reads_batch: bool,
}

/// Reads a tree. `batch` is the id of the relation that stands for the events.
pub(super) fn read(tree: &str, batch: u32) -> Seen {
    let mut seen = Seen::default();
    let mut open: Vec<Query> = Vec::new();
    let mut depth = 0_usize;
    let mut before = "";
    for token in tokens(tree) {
        match token {
            "{" => depth += 1,
            "}" => {
                if open.last().is_some_and(|query| query.depth == depth)
                    && let Some(done) = open.pop()
                {
                    seen.is_whole |= done.combines && done.reads_batch;
                    if let Some(outer) = open.last_mut() {
                        outer.reads_batch |= done.reads_batch;
                    }
                }
                depth = depth.saturating_sub(1);
            }
            "QUERY" if before == "{" => open.push(Query { depth, ..Query::default() }),
            _ => {}
        }
        let number = || token.parse::<u32>().ok().filter(|number| *number > 0);
        match before {
            ":funcid" | ":opfuncid" | ":aggfnoid" | ":winfnoid" => seen.functions.extend(number()),
            ":relid" if number() == Some(batch) => {
                if let Some(query) = open.last_mut() {
                    query.reads_batch = true;
                }
            }
            ":hasAggs" | ":hasWindowFuncs" | ":hasDistinctOn" if token == "true" => combine(&mut open),
            ":groupClause" | ":distinctClause" | ":limitCount" | ":limitOffset" | ":groupingSets"
                if token != "<>" =>
            {
                combine(&mut open);
            }
            // `union all` keeps each row; every other set operation compares rows.
            ":all" if token == "false" => combine(&mut open),
            _ => {}
        }
        before = token;
    }
    seen.functions.sort_unstable();
    seen.functions.dedup();
    seen
}

fn combine(open: &mut [Query]) {
    if let Some(query) = open.last_mut() {
        query.combines = true;
    }
}

/// Braces, parentheses, and what stands between them and spaces.
fn tokens(tree: &str) -> impl Iterator<Item = &str> {
    let mut rest = tree;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = if matches!(first, '{' | '}' | '(' | ')') {
            1
        } else {
            let mut is_quoted = false;
            let ends = |c: char| {
                let ends = !is_quoted && (c.is_whitespace() || matches!(c, '{' | '}' | '(' | ')'));
                is_quoted = !is_quoted && c == '\\';
                ends
            };
            rest.find(ends).unwrap_or(rest.len())
        };
        let (token, behind) = rest.split_at(end);
        rest = behind;
        Some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_level_that_reads_the_batch_makes_it_whole() {
        let plain = "({QUERY :hasAggs false :rtable ({RTE :relid 7}) :limitCount <> :groupClause <>})";
        assert_eq!(read(plain, 7), Seen::default());
        let grouped = "({QUERY :hasAggs true :rtable ({RTE :relid 7}) :x {AGGREF :aggfnoid 2803}})";
        assert_eq!(read(grouped, 7), Seen { is_whole: true, functions: vec![2803] });
        // An aggregate over the elements of one event.
        let within = "({QUERY :hasAggs false :rtable ({RTE :relid 7}) :sub {QUERY :hasAggs true :rtable ({RTE :rtekind 3})}})";
        assert!(!read(within, 7).is_whole);
        let below = "({QUERY :hasAggs true :rtable ({RTE :subquery {QUERY :rtable ({RTE :relid 7})}})})";
        assert!(read(below, 7).is_whole);
        assert!(!read(below, 8).is_whole);
    }

    #[test]
    fn quoted_braces_are_no_nodes() {
        let tree = "({QUERY :name a\\{\\ QUERY :limitCount {CONST} :rtable ({RTE :relid 7})})";
        assert!(read(tree, 7).is_whole);
        assert_eq!(tokens("a\\ b c").collect::<Vec<_>>(), ["a\\ b", "c"]);
    }
}
