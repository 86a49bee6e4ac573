//! The service's memory and CPU time, from its metrics.

use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};

use crate::client::{Body, ConnectError, Connection, Target, bearer};
use crate::protocol::Token;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why it is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResidentError {
    /// No listener.
    #[error("no connection to the service")]
    Connect(#[from] ConnectError),
    /// The token has invalid characters.
    #[error("the token holds characters that a header cannot carry")]
    Token,
    /// The token lacks the scope.
    #[error("the service shows its metrics to tokens with ops:read alone (--token, LOADTEST_TOKEN)")]
    Refused,
    /// There is no such process on this machine.
    #[error("there is no process {0} on this machine")]
    NoProcess(u32),
    /// `/metrics` does not include it.
    #[error("the service does not show its metrics")]
    NoMetrics,
}

/// The service's use of resources.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Bytes of resident memory.
    pub(crate) resident_bytes: u64,
    /// CPU time so far, in seconds.
    pub(crate) cpu_s: f64,
}

/// Bytes of resident memory, from `/metrics`.
pub(crate) async fn resident_bytes(target: &Target, token: Option<&Token>) -> Result<u64, ResidentError> {
    Ok(usage(target, token, &[]).await?.resident_bytes)
}

/// Memory and CPU time from `/metrics`, which has whole seconds; those of the processes `pids` of this machine, if there are any, are
/// exact to 10 ms.
pub(crate) async fn usage(
    target: &Target,
    token: Option<&Token>,
    pids: &[u32],
) -> Result<Usage, ResidentError> {
    if !pids.is_empty() {
        let of = |pid: &u32| resident_of(*pid).zip(cpu_s(*pid)).ok_or(ResidentError::NoProcess(*pid));
        return pids.iter().map(of).try_fold(Usage { resident_bytes: 0, cpu_s: 0.0 }, |sum, one| {
            let (resident_bytes, cpu_s) = one?;
            Ok(Usage { resident_bytes: sum.resident_bytes + resident_bytes, cpu_s: sum.cpu_s + cpu_s })
        });
    }
    let mut connection = Connection::open(target).await?;
    let mut request = Request::get(target.path("/metrics")).header(HOST, target.host_header());
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, bearer(&token.0).ok_or(ResidentError::Token)?);
    }
    let request = request.body(Full::default()).map_err(|_| ResidentError::NoMetrics)?;
    let answer = connection.exchange(request, Body::Keep, TIMEOUT).await;
    let answer = answer.map_err(|_| ResidentError::NoMetrics)?;
    if matches!(answer.status, 401 | 403) {
        return Err(ResidentError::Refused);
    }
    let text = String::from_utf8_lossy(&answer.body);
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse::<f64>().ok()).ok_or(ResidentError::NoMetrics)
    };
    let resident_bytes = value("process_resident_memory_bytes")? as u64;
    Ok(Usage { resident_bytes, cpu_s: value("process_cpu_seconds_total")? })
}

/// The CPU time of a process (proc_pid_stat(5), utime and stime). The unit of these fields is 10 ms on all common machines.
pub(crate) fn cpu_s(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    Some((ticks.next()?? + ticks.next()??) as f64 / 100.0)
}

/// Bytes of resident memory of a process (proc_pid_status(5), `VmRSS`).
pub(crate) fn resident_of(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_this_process_is_found() {
        let before = cpu_s(std::process::id()).unwrap();
        assert!((0..).map_while(|_| cpu_s(std::process::id())).any(|now| now > before));
        assert_eq!(cpu_s(u32::MAX), None);
        assert!(resident_of(std::process::id()).unwrap() > 100_000);
    }
}
