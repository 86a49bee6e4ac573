//! Cost of authenticating an event. The key is created in a private Postgres in the system's temporary folder; the measured code
//! does not query it.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::Criterion;
use tidegate::auth::keys::KeyRequest;
use tidegate::auth::{Accounts, KeyHash, Scope, Scopes, Secret, Verifier};
use tidegate::config::{Config, Variables};
use tidegate::db::private::PrivateCluster;
use tidegate::db::{ConnectionUrl, Database, migrate};
use uuid::Uuid;

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// A verifier with a cached key, and the key.
async fn known_key() -> Result<(Arc<Verifier>, Secret), Box<dyn std::error::Error>> {
    let folder = Folder(std::env::temp_dir().join(format!("tidegate-bench-{}", Uuid::new_v4())));
    std::fs::create_dir(&folder.0)?;
    let cluster = PrivateCluster::start(&folder.0).await?;
    let config = Config::from_variables(&Variables::default())?;
    let database = Database::new(&ConnectionUrl::parse(cluster.url())?, &config.database)?;
    migrate(&database, config.database.partitioning, config.modules()).await?;
    let verifier = Verifier::new(&config.auth, config.auth_mode(), None)?;
    let accounts = Accounts::new(&config.auth, &verifier, &database);
    let scopes = Scopes::default().with(Scope::EventsWrite);
    let request = KeyRequest { name: None, scopes, expires_s: None, replaces: None, origins: None };
    let made = accounts.keys.create(&request, None, &Scopes::ADMIN).await?;
    let hash = KeyHash::of(made.secret.reveal()).ok_or("not a key")?;
    accounts.look_up(hash).await?;
    database.close();
    cluster.stop().await?;
    Ok((verifier, made.secret))
}

fn verify(criterion: &mut Criterion, verifier: &Verifier, key: &Secret) {
    let mut group = criterion.benchmark_group("auth");
    group.bench_function("a key that is known", |bencher| {
        bencher.iter(|| verifier.verify(black_box(key.reveal())).is_ok());
    });
    // The last character belongs to the checksum.
    let mut mistyped = key.reveal().to_owned();
    let last = mistyped.pop();
    mistyped.push(if last == Some('0') { '1' } else { '0' });
    group.bench_function("a key that is mistyped", |bencher| {
        bencher.iter(|| verifier.verify(black_box(&mistyped)).is_err());
    });
    group.finish();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (verifier, key) = runtime.block_on(known_key())?;
    let mut criterion = Criterion::default().configure_from_args();
    verify(&mut criterion, &verifier, &key);
    criterion.final_summary();
    Ok(())
}
