//! Expressions as filters of subscriptions.

use super::{Expression, Made, Subject};
use crate::realtime::{Change, MatchError, Matcher, State};
use crate::time::Millis;

/// Judges changes by an expression. Its dates are those of the change, so that a stream that continues later gets what a live one gets.
#[derive(Debug)]
pub struct ExpressionMatcher {
    expression: Expression,
    /// Whether the changes are those of records, whose id and times are not among their own members.
    is_of_records: bool,
}

impl ExpressionMatcher {
    /// A matcher of changes of records.
    pub fn of_records(expression: Expression) -> Self {
        Self { expression, is_of_records: true }
    }

    /// A matcher of changes whose data has all members.
    pub fn of_objects(expression: Expression) -> Self {
        Self { expression, is_of_records: false }
    }
}

impl Matcher for ExpressionMatcher {
    fn matches(&self, change: &Change, state: State) -> Result<bool, MatchError> {
        let Some((data, members)) = change.members(state) else { return Ok(false) };
        let made = self.is_of_records.then(|| Made {
            id: &change.record,
            created: Millis(change.created_us.div_euclid(1000)),
            // The state before an update has its own.
            updated: (state == State::Data).then(|| Millis(change.updated_us.div_euclid(1000))),
        });
        let subject = Subject { made, data, members };
        let now = Millis(change.at_us.div_euclid(1000));
        self.expression.matches(&subject, now).map_err(|error| MatchError(error.to_string().into()))
    }
}
