#!/usr/bin/env bash
# Builds the Debian package into target/debian, or that of another target directory, with the manual pages and completions that the binary prints.
# Needs `cargo install --locked cargo-deb`, and dpkg-dev for the list of libraries. The maintainer is whoever builds it: DEBFULLNAME and
# DEBEMAIL, as for Debian's own tools, or else the author that git has.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --locked -p tidegate
binary=$(cargo metadata --no-deps --format-version 1 --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/tidegate
# Cargo.toml names these below the package, wherever the target directory is.
parts=target/package
rm -rf "$parts" && mkdir -p "$parts/man"
"$binary" man "$parts/man"
for shell in bash zsh fish; do "$binary" completions $shell > "$parts/tidegate.$shell"; done
name=${DEBFULLNAME:-$(git config user.name || true)} email=${DEBEMAIL:-$(git config user.email || true)}
[[ -n $name && -n $email ]] || { echo "set DEBFULLNAME and DEBEMAIL: a package has a maintainer"; exit 1; }
cargo deb --no-build --locked -p tidegate --maintainer "$name <$email>"
