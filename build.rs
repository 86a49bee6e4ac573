//! Sets `TIDEGATE_BUILD`, which `tidegate --version` prints: the commit and its date.
//!
//! Where `TIDEGATE_BUILD` is set already, it is used as it is: a container image is built without the repository. Debug builds leave the commit
//! out, or each commit would compile the crate again.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=TIDEGATE_BUILD");
    println!("cargo:rerun-if-changed=build.rs");
    let given = std::env::var("TIDEGATE_BUILD").ok().filter(|build| !build.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let build = given.or_else(|| if is_release { of_git() } else { Some("debug build".to_owned()) });
    println!("cargo:rustc-env=TIDEGATE_BUILD={}", build.as_deref().unwrap_or("unknown commit"));
}

/// The last commit of the repository; `None` outside of one.
fn of_git() -> Option<String> {
    // Written at each commit and at each change of branch.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo:rerun-if-changed={log}");
    git(&["log", "-1", "--format=%h %cs"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
