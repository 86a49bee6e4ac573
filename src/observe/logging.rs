//! Structured logs: readable on a terminal, otherwise a JSON object per line.

use std::io::IsTerminal;

use tracing::subscriber::set_global_default;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LoggingConfig};

/// `LOG` is invalid.
#[derive(Debug, thiserror::Error)]
#[error("LOG: got {got:?}, takes a level or directives such as info,tidegate=debug ({source})")]
pub struct LogError {
    got: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Libraries whose lines repeat those of the service. `LOG` shows them if it names them.
const QUIET: [&str; 1] = ["deadpool.postgres"];

/// Sends the process's logs to stderr as `config` specifies. A second call has no effect.
///
/// Records of the crate `log` are not shown: refinery and tokio-postgres write them, with source paths of the build machine,
/// about events that the service logs itself.
///
/// # Errors
///
/// [`LogError`] if the filter is invalid.
pub fn init(config: &LoggingConfig) -> Result<(), LogError> {
    let filter = filter(&config.log)?;
    let human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_terminal = std::io::stderr().is_terminal();
    // Not `try_init`, which also installs a logger for `log` if a dependency enables that.
    let _second_call = if human {
        set_global_default(builder.with_target(false).with_ansi(is_terminal).finish()).is_err()
    } else {
        let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
        set_global_default(builder.finish()).is_err()
    };
    Ok(())
}

fn filter(log: &str) -> Result<EnvFilter, LogError> {
    let refuse = |source| LogError { got: log.to_owned(), source };
    let mut filter = EnvFilter::builder().parse(log).map_err(refuse)?;
    for target in QUIET.into_iter().filter(|target| !log.contains(target)) {
        filter = filter.add_directive(format!("{target}=off").parse().map_err(refuse)?);
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_libraries_are_shown_where_they_are_named() {
        assert!(filter("debug").unwrap().to_string().contains("deadpool.postgres=off"));
        let named = filter("info,deadpool.postgres=warn").unwrap().to_string();
        assert!(named.contains("deadpool.postgres=warn") && !named.contains("off"), "{named}");
        assert!(filter("info,=").is_err());
    }
}
