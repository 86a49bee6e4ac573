//! The limit of open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit cannot be raised.
#[derive(Debug, thiserror::Error)]
#[error("cannot have {0} descriptors; raise the limit (ulimit -n)")]
pub(crate) struct NoDescriptors(u64);

/// Raises the limit to `wanted`: each stream needs a descriptor, and shells allow few by default.
pub(crate) fn raise(wanted: u64) -> Result<(), NoDescriptors> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    let (soft, hard) = limit.map_err(|_| NoDescriptors(wanted))?;
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).map_err(|_| NoDescriptors(wanted))
}
