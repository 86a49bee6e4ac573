//! TLS to Postgres, against a real server with certificates of our own making.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::postgres::{PrivateServer, Scratch};
use crate::support::service::{Service, run};

/// Writes `ca.pem`, and a certificate for `localhost` signed by it.
fn certificates(scratch: &Scratch) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    fs::write(scratch.path().join("ca.pem"), authority.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&server_key, &issuer)
        .unwrap();
    fs::write(scratch.path().join("server.pem"), server.pem()).unwrap();
    fs::write(scratch.path().join("server.key"), server_key.serialize_pem()).unwrap();
    let other = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(scratch.path().join("other-ca.pem"), params.self_signed(&other).unwrap().pem()).unwrap();
}

#[tokio::test]
async fn every_sslmode_does_what_libpq_says_it_does() {
    let files = Scratch::new();
    certificates(&files);
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let server = PrivateServer::start_as(
        &[("ssl", "on"), ("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")],
        |cluster| {
            let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(cluster).unwrap());
            for name in ["server.pem", "server.key"] {
                let to = cluster.join(name);
                fs::copy(files.path().join(name), &to).unwrap();
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
                chown(&to, Some(owner), None).unwrap();
            }
        },
    )
    .await;
    let tcp = server.tcp_url();
    let by_name = tcp.replace("127.0.0.1", "localhost");
    let (ca, other) = (path("ca.pem"), path("other-ca.pem"));
    for (url, encrypted) in [
        (format!("{tcp}?sslmode=disable"), false),
        (format!("{tcp}?sslmode=prefer"), true),
        (tcp.clone(), true),
        (format!("{tcp}?sslmode=require"), true),
        (format!("{tcp}?sslmode=verify-ca&sslrootcert={ca}"), true),
        (format!("{by_name}?sslmode=verify-full&sslrootcert={ca}"), true),
    ] {
        let service = Service::start(&url, &[]).await;
        service.post(&[], "{}").await;
        service.settled().await;
        let admin = crate::support::postgres::connect(server.url()).await;
        let row = admin
            .query_one("select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'tidegate'", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, Option<bool>>(0), Some(encrypted), "{}", url.rsplit('?').next().unwrap());
        assert!(service.stop().await.status.success());
    }
    for (url, error) in [
        (format!("{tcp}?sslmode=verify-full&sslrootcert={ca}"), "not valid for name"),
        (format!("{by_name}?sslmode=verify-full&sslrootcert={other}"), "invalid peer certificate"),
        (format!("{tcp}?sslmode=verify-ca&sslrootcert={other}"), "invalid peer certificate"),
        (format!("{tcp}?sslmode=verify-full&sslrootcert=/nonexistent.pem"), "sslrootcert /nonexistent.pem"),
    ] {
        let (status, _, stderr) =
            run(&["serve"], &[("DATABASE_URL", &url), ("PORT", "0"), ("DB_START_TIMEOUT_S", "1")]).await;
        assert_eq!(status.code(), Some(1));
        assert!(stderr.contains(error), "{error} is not in {stderr}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let server = PrivateServer::start(&[]).await;
    let tcp = server.tcp_url();
    assert!(Service::start(&format!("{tcp}?sslmode=prefer"), &[]).await.stop().await.status.success());
    let url = format!("{tcp}?sslmode=require");
    let (status, _, stderr) =
        run(&["serve"], &[("DATABASE_URL", &url), ("PORT", "0"), ("DB_START_TIMEOUT_S", "1")]).await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("server does not support TLS"), "{stderr}");
}
