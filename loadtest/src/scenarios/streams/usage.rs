//! CPU time and memory of the server's processes, from `/proc`: any server can be measured so.

use super::super::Error;
use crate::resident::{cpu_s, resident_of};

/// The use of resources so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    cpu_s: f64,
    resident: u64,
}

impl Usage {
    /// That of these processes together; `None`: there are none.
    pub(super) fn of(pids: &[u32]) -> Result<Option<Self>, Error> {
        let mut usage = Self { cpu_s: 0.0, resident: 0 };
        for pid in pids {
            usage.cpu_s += cpu_s(*pid).ok_or(Error::NoProcess(*pid))?;
            usage.resident += resident_of(*pid).ok_or(Error::NoProcess(*pid))?;
        }
        Ok((!pids.is_empty()).then_some(usage))
    }

    /// The CPU time since an earlier use.
    pub(super) fn cpu_since(self, earlier: Self) -> f64 {
        self.cpu_s - earlier.cpu_s
    }

    /// The growth of memory since an earlier use, in bytes.
    pub(super) fn growth_since(self, earlier: Self) -> f64 {
        self.resident as f64 - earlier.resident as f64
    }
}
