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

/// A column of the outermost select, as far as it was read.
#[derive(Debug, Default)]
struct Target {
    depth: usize,
    /// The number of the relation, and of its column, if the expression is nothing else.
    variable: Option<[u32; 2]>,
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
    let (mut relations, mut batch_relation) = (0, None);
    let (mut target, mut ids): (Option<Target>, Vec<(u32, String)>) = (None, Vec::new());
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
        if let [outermost] = &open[..] {
            let level = outermost.depth + 1;
            match (before, token) {
                ("{", "RTE") if depth == level => relations += 1,
                (":relid", _) if depth == level && number() == Some(batch.relation) => {
                    batch_relation = Some(relations);
                }
                ("{", "TARGETENTRY") if depth == level => target = Some(Target { depth, variable: None }),
                (":expr", "{") => {}
                ("{", "VAR") if target.as_ref().is_some_and(|target| depth == target.depth + 1) => {
                    if let Some(target) = &mut target {
                        target.variable = Some([0, 0]);
                    }
                }
                (":varno" | ":varattno", _) if depth == level + 1 => {
                    if let Some(variable) = target.as_mut().and_then(|target| target.variable.as_mut()) {
                        variable[usize::from(before == ":varattno")] = number().unwrap_or(0);
                    }
                }
                (":resname", name) if depth == level => {
                    if let Some(Target { variable: Some([relation, column]), .. }) = target.take()
                        && column == batch.id_column
                    {
                        ids.push((relation, name.replace('\\', "")));
                    }
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
    seen.event_column =
        ids.into_iter().find(|(relation, _)| Some(*relation) == batch_relation).map(|(_, name)| name);
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
        let tree = |expression: &str| {
            format!(
                "({{QUERY :rtable ({{RTE :relid 5}} {{RTE :x {{QUERY :rtable ({{RTE :relid 7}})}}}} {{RTE :relid 7}}) :targetList (\
                 {{TARGETENTRY :expr {{FUNCEXPR :args ({{VAR :varno 3 :varattno 1}})}} :resname n}} \
                 {{TARGETENTRY :expr {expression} :resname event\\ id}})}})"
            )
        };
        let column = |expression: &str| read(&tree(expression), BATCH).event_column;
        assert_eq!(column("{VAR :varno 3 :varattno 1 :vartype 2950}"), Some("event id".to_owned()));
        for other in [
            "{VAR :varno 3 :varattno 2}",
            "{VAR :varno 1 :varattno 1}",
            "{OPEXPR :args ({VAR :varno 3 :varattno 1})}",
        ] {
            assert_eq!(column(other), None, "{other}");
        }
    }
}
