//! Cron expressions: minute, hour, day, month, day of the week.

const MACROS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
/// The range of each segment.
const RANGES: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];

/// Checks an expression; the reason of a refusal is a sentence.
pub(super) fn check(text: &str) -> Result<(), String> {
    if MACROS.contains(&text) {
        return Ok(());
    }
    let segments: Vec<&str> = text.split(' ').collect();
    if segments.len() != RANGES.len() {
        return Err(
            "Invalid cron expression - must be a valid macro or to have exactly 5 space separated segments."
                .into(),
        );
    }
    let parts = segments
        .iter()
        .zip(RANGES)
        .flat_map(|(segment, range)| segment.split(',').map(move |part| (part, range)));
    parts.into_iter().try_for_each(|(part, range)| check_part(part, range))
}

fn check_part(part: &str, (least, most): (u32, u32)) -> Result<(), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("Invalid number \"{text}\"."));
    let within = |value: u32, from: u32, message: String| {
        if (from..=most).contains(&value) { Ok(value) } else { Err(message) }
    };
    let (range, step) = match part.split_once('/') {
        Some((_, step)) if step.contains('/') => {
            return Err("Invalid segment step format - must be in the format */n or 1-30/n.".into());
        }
        Some((range, step)) => {
            let message =
                format!("Invalid segment step boundary - the step must be between 1 and the {most}.");
            (range, within(number(step)?, 1, message)?)
        }
        None => (part, 1),
    };
    if range == "*" {
        return Ok(());
    }
    match range.split_once('-') {
        None if step != 1 => {
            Err("Invalid segment step - step > 1 could be used only with the wildcard or range format."
                .into())
        }
        None => {
            let message = "Invalid segment value - must be between the min and max of the segment.";
            within(number(range)?, least, message.into()).map(drop)
        }
        Some((_, last)) if last.contains('-') => {
            Err("Invalid segment range format - the range must have 1 or 2 parts.".into())
        }
        Some((first, last)) => {
            let message = format!("Invalid segment range minimum - must be between {least} and {most}.");
            let first = within(number(first)?, least, message)?;
            let message = format!("Invalid segment range maximum - must be between {first} and {most}.");
            within(number(last)?, first, message).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_five_segments_of_lists_ranges_and_steps() {
        for text in ["@daily", "* * * * *", "*/5 0-23/2 1,15 12 0-6", "59 23 31 12 6", "1-1 0 1 1 0"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "bad",
            "* * * * * *",
            "60 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5/2 * * * *",
            "5-1 * * * *",
            "1-2-3 * * * *",
            "*/1/1 * * * *",
            "a * * * *",
            "@Daily",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
