//! The environment of a run, and its command line.

use serde::{Deserialize, Serialize};

/// Options whose values are secrets.
const SECRET_OPTIONS: [&str; 2] = ["--token", "--database-url"];
const HIDDEN: &str = "…";

/// The machine and the versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) host: String,
    pub(crate) system: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    /// The load of the last minute, before the run.
    pub(crate) load: String,
    pub(crate) loadtest: String,
    /// The service's URL, and its version if it reports one.
    pub(crate) service: String,
}

impl Machine {
    /// This machine, for a run against this service.
    pub(crate) fn here(service: String) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
        Self {
            host: read("/proc/sys/kernel/hostname").trim().to_owned(),
            system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
            processor: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or(0) * 1_024,
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            loadtest: env!("CARGO_PKG_VERSION").to_owned(),
            service,
        }
    }

    /// Names and values, for people.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("service", self.service.clone()),
            ("loadtest", self.loadtest.clone()),
            ("host", self.host.clone()),
            ("system", self.system.clone()),
            ("processor", format!("{}, {} cores", self.processor, self.cores)),
            ("memory", format!("{:.1} GiB", self.memory_bytes as f64 / f64::from(1 << 30))),
            ("load before", self.load.clone()),
        ]
    }
}

/// The command as a shell takes it, without the values of secrets.
pub(crate) fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["loadtest".to_owned()];
    let mut hides = false;
    for argument in arguments.skip(1) {
        if std::mem::take(&mut hides) {
            words.push(HIDDEN.to_owned());
            continue;
        }
        match argument.split_once('=') {
            Some((name, _)) if SECRET_OPTIONS.contains(&name) => words.push(format!("{name}={HIDDEN}")),
            _ => {
                hides = SECRET_OPTIONS.contains(&argument.as_str());
                words.push(quoted(&argument));
            }
        }
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=,%@+".contains(&byte));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_repeated_and_holds_no_secret() {
        let command = |words: &[&str]| command_line(words.iter().map(|word| (*word).to_owned()));
        let text = command(&[
            "/x/loadtest",
            "run",
            "--token",
            "s3cret",
            "--payload",
            "{\"a\": 'b'}",
            "--rate",
            "20",
        ]);
        assert_eq!(text, r#"loadtest run --token … --payload '{"a": '\''b'\''}' --rate 20"#);
        let text = command(&["l", "run", "--database-url=postgres://u:p@h/d", "--token=x"]);
        assert_eq!(text, "loadtest run --database-url=… --token=…");
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::here("http://h".to_owned());
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(machine.rows().iter().all(|(_, value)| !value.is_empty()), "{machine:?}");
    }
}
