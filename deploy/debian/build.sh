#!/usr/bin/env bash
# Builds the Debian package into target/debian, with the manual pages and completions that the binary prints.
# Needs `cargo install --locked cargo-deb`, and dpkg-dev for the list of libraries. The maintainer is whoever builds it: DEBFULLNAME and
# DEBEMAIL, as for Debian's own tools, or else the author that git has.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --locked -p tidegate
parts=target/package
rm -rf "$parts" && mkdir -p "$parts/man"
target/release/tidegate man "$parts/man"
for shell in bash zsh fish; do target/release/tidegate completions $shell > "$parts/tidegate.$shell"; done
name=${DEBFULLNAME:-$(git config user.name || true)} email=${DEBEMAIL:-$(git config user.email || true)}
[[ -n $name && -n $email ]] || { echo "set DEBFULLNAME and DEBEMAIL: a package has a maintainer"; exit 1; }
cargo deb --no-build --locked -p tidegate --maintainer "$name <$email>"
