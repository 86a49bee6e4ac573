//! All views of a catalogue, written in the order in which they read each other.

use std::collections::{BTreeMap, BTreeSet};

use super::super::catalog::{DefinedCollection, Definitions};
use super::{MAX_TABLES, ViewError, WrittenView, words};

/// The views of the collections as they will be.
#[derive(Debug, Default)]
pub(in crate::records::typed) struct Views {
    /// By place. A view without a query that can be written has the reason.
    written: BTreeMap<usize, Result<WrittenView, ViewError>>,
    /// Their places, each behind those of the views that it reads.
    order: Vec<usize>,
}

/// What is known of a view while they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Begun,
    /// The tables that it reads, with those of other views.
    Done(usize),
}

impl Views {
    /// Writes all views, and sets their fields.
    pub(in crate::records::typed) fn of(definitions: &mut Definitions) -> Self {
        let mut views = Self::default();
        let mut progress = BTreeMap::new();
        for at in 0..definitions.all.len() {
            views.settle(definitions, at, &mut progress);
        }
        views
    }

    fn settle(&mut self, definitions: &mut Definitions, at: usize, progress: &mut BTreeMap<usize, Progress>) {
        if progress.contains_key(&at) {
            return;
        }
        let Some(text) = definitions.all.get(at).and_then(|one| one.definition.view_query.clone()) else {
            return;
        };
        progress.insert(at, Progress::Begun);
        // Perhaps more than it reads: a word may also be a column.
        let words: BTreeSet<String> = words(&text).into_iter().collect();
        for other in 0..definitions.all.len() {
            let is_read = definitions.all.get(other).is_some_and(|one| {
                one.definition.is_view() && words.contains(&one.name.as_str().to_ascii_lowercase())
            });
            // A chain is as deep as there are tables that a view may read.
            let begun = progress.values().filter(|one| **one == Progress::Begun).count();
            if is_read && begun <= MAX_TABLES {
                self.settle(definitions, other, progress);
            }
        }
        let written = WrittenView::of(&text, definitions).and_then(|written| {
            let mut tables = 0_usize;
            for (source, times) in &written.sources {
                let is_view = definitions.all.get(*source).is_some_and(|one| one.definition.is_view());
                let weight = match progress.get(source) {
                    Some(Progress::Begun) => return Err(ViewError::new("the view reads itself")),
                    Some(Progress::Done(tables)) => *tables,
                    None if is_view => return Err(ViewError::new("the views read each other too deep")),
                    None => 1,
                };
                if is_view && self.written.get(source).is_some_and(Result::is_err) {
                    let name = definitions.all.get(*source).map_or("", |one| one.name.as_str());
                    return Err(ViewError::new(format!("the query of the view {name} is invalid")));
                }
                tables = tables.saturating_add(times.saturating_mul(weight));
            }
            match tables > MAX_TABLES {
                true => Err(ViewError::new(format!(
                    "a view reads at most {MAX_TABLES} tables, with those of the views that it reads"
                ))),
                false => Ok((written, tables)),
            }
        });
        let (written, tables) = match written {
            Ok((written, tables)) => (Ok(written), tables),
            Err(error) => (Err(error), 1),
        };
        if let Some(collection) = definitions.all.get_mut(at) {
            collection.definition.is_broken = written.is_err();
            if let Ok(written) = &written {
                collection.definition.fields.clone_from(&written.fields);
            }
        }
        progress.insert(at, Progress::Done(tables));
        self.order.push(at);
        self.written.insert(at, written);
    }

    /// The written query of the view at a place; `None`: it is no view.
    pub(in crate::records::typed) fn get(&self, at: usize) -> Option<&Result<WrittenView, ViewError>> {
        self.written.get(&at)
    }

    /// The places of views other than those in `planned` that a change concerns: of collections in `touched`, or of fields.
    pub(in crate::records::typed) fn concerned(
        &self,
        before: &Definitions,
        after: &Definitions,
        touched: &BTreeSet<usize>,
    ) -> Vec<usize> {
        let mut touched = touched.clone();
        let mut found = Vec::new();
        for at in self.order.iter().filter(|at| !touched.contains(at)).copied().collect::<Vec<_>>() {
            let Some(now) = after.all.get(at) else { continue };
            let was = before.all.iter().find(|one| one.number == now.number && now.number != 0);
            let has_changed = was.is_none_or(|was| was.definition != now.definition);
            let reads = |written: &WrittenView| written.sources.keys().any(|source| touched.contains(source));
            let is_concerned = matches!(self.written.get(&at), Some(Ok(written)) if reads(written));
            if has_changed || is_concerned {
                touched.insert(at);
                found.push(at);
            }
        }
        found
    }

    /// Places in the order in which their views can be made.
    pub(in crate::records::typed) fn rank(&self, at: usize) -> usize {
        // Tables first.
        self.order.iter().position(|one| *one == at).map_or(0, |rank| rank + 1)
    }
}

/// The definitions of collections.
pub(in crate::records::typed) fn settled(all: Vec<DefinedCollection>) -> (Definitions, Views) {
    let mut definitions = Definitions::new(all);
    let views = Views::of(&mut definitions);
    (definitions, views)
}

/// The places of the collections with tables that the view at a place reads, by other views too.
pub(in crate::records::typed) fn tables(definitions: &Definitions, at: usize) -> BTreeSet<usize> {
    let (mut known, mut tables, mut views) = (BTreeSet::from([at]), BTreeSet::new(), vec![at]);
    while let Some(at) = views.pop() {
        let text = definitions.all.get(at).and_then(|one| one.definition.view_query.as_deref());
        let Some(Ok(written)) = text.map(|text| WrittenView::of(text, definitions)) else { continue };
        for source in written.sources.into_keys().filter(|source| known.insert(*source)) {
            match definitions.all.get(source) {
                Some(one) if one.definition.is_view() => views.push(source),
                Some(_) => drop(tables.insert(source)),
                None => {}
            }
        }
    }
    tables
}
