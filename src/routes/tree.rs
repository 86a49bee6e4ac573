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
    /// The column that is the event's id.
    pub(super) event_column: Option<String>,
}

/// The relation that stands for the events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) relation: u32,
    /// The number of its column `id`.
    pub(super) id_column: u32,
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

/// Reads a tree.
pub(super) fn read(tree: &str, batch: Batch) -> Seen {
    let mut seen = Seen::default();
    let mut open: Vec<Query> = Vec::new();
    let mut depth = 0_usize;
    let mut before = "";
    let (mut column, mut is_of_batch) = ("", false);
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
        // The origin of a column of the outermost select, through parts of it, too.
        if matches!(&open[..], [outermost] if depth == outermost.depth + 1) {
            match before {
                ":resname" => column = token,
                ":resorigtbl" => is_of_batch = number() == Some(batch.relation),
                ":resorigcol" if is_of_batch && number() == Some(batch.id_column) => {
                    seen.event_column.get_or_insert_with(|| column.replace('\\', ""));
                }
                _ => {}
            }
        }
        match before {
            ":funcid" | ":opfuncid" | ":aggfnoid" | ":winfnoid" => seen.functions.extend(number()),
            ":relid" if number() == Some(batch.relation) => {
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

    const BATCH: Batch = Batch { relation: 7, id_column: 1 };

    #[test]
    fn only_a_level_that_reads_the_batch_makes_it_whole() {
        let plain = "({QUERY :hasAggs false :rtable ({RTE :relid 7}) :limitCount <> :groupClause <>})";
        assert_eq!(read(plain, BATCH), Seen::default());
        let grouped = "({QUERY :hasAggs true :rtable ({RTE :relid 7}) :x {AGGREF :aggfnoid 2803}})";
        assert_eq!(read(grouped, BATCH), Seen { is_whole: true, functions: vec![2803], event_column: None });
        // An aggregate over the elements of one event.
        let within = "({QUERY :hasAggs false :rtable ({RTE :relid 7}) :sub {QUERY :hasAggs true :rtable ({RTE :rtekind 3})}})";
        assert!(!read(within, BATCH).is_whole);
        let below = "({QUERY :hasAggs true :rtable ({RTE :subquery {QUERY :rtable ({RTE :relid 7})}})})";
        assert!(read(below, BATCH).is_whole);
        assert!(!read(below, Batch { relation: 8, id_column: 1 }).is_whole);
    }

    #[test]
    fn quoted_braces_are_no_nodes() {
        let tree = "({QUERY :name a\\{\\ QUERY :limitCount {CONST} :rtable ({RTE :relid 7})})";
        assert!(read(tree, BATCH).is_whole);
        assert_eq!(tokens("a\\ b c").collect::<Vec<_>>(), ["a\\ b", "c"]);
    }

    #[test]
    fn a_column_of_the_outermost_select_may_be_the_events_id() {
        let column = |origin: &str| {
            let tree = format!(
                "({{QUERY :rtable ({{RTE :relid 7}} {{RTE :x {{QUERY :targetList ({{TARGETENTRY :resname no :resorigtbl 7 :resorigcol 1}})}}}}) \
                 :targetList ({{TARGETENTRY :expr {{VAR}} :resname n :resorigtbl 0 :resorigcol 0}} \
                 {{TARGETENTRY :expr {{VAR}} :resname event\\ id {origin}}})}})"
            );
            read(&tree, BATCH).event_column
        };
        assert_eq!(column(":resorigtbl 7 :resorigcol 1"), Some("event id".to_owned()));
        for other in
            [":resorigtbl 7 :resorigcol 2", ":resorigtbl 5 :resorigcol 1", ":resorigtbl 0 :resorigcol 0"]
        {
            assert_eq!(column(other), None, "{other}");
        }
    }
}
