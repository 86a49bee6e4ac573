//! Structured logs: for people on a terminal, a JSON object a line otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LoggingConfig};

/// `LOG` cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("LOG: got {got:?}, takes a level or directives such as info,tidegate=debug ({source})")]
pub struct LogError {
    got: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Sends the process's logs to stderr as `config` asks. A second call changes nothing.
///
/// # Errors
///
/// [`LogError`] if the filter cannot be read.
pub fn init(config: &LoggingConfig) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(&config.log)
        .map_err(|source| LogError { got: config.log.clone(), source })?;
    let human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _second_call = if human {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init().is_err()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init().is_err()
    };
    Ok(())
}
