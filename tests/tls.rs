//! TLS to Postgres, against a real server and certificates made for the test.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::support::postgres::{PrivateServer, Scratch, connect};
use crate::support::service::{Service, run};

/// A certificate authority, whose certificate is `<name>.pem`.
struct Authority<'a> {
    folder: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(folder: &'a Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(folder.join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// Writes `<file>.pem` and `<file>.key`: a certificate for a common name and host names.
    fn issue(&self, file: &str, common_name: &str, hosts: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
        fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

/// A server with the certificate `server.pem` of the folder. It trusts the clients of `ca.pem`. `access` stands first in its
/// `pg_hba.conf`.
async fn server(files: &Path, access: &str) -> PrivateServer {
    let settings = [
        ("ssl", "on"),
        ("ssl_cert_file", "server.pem"),
        ("ssl_key_file", "server.key"),
        ("ssl_ca_file", "ca.pem"),
    ];
    PrivateServer::start_as(&settings, |cluster| {
        let owner = fs::metadata(cluster).unwrap().uid();
        for name in ["server.pem", "server.key", "ca.pem"] {
            let to = cluster.join(name);
            fs::copy(files.join(name), &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&to, Some(owner), None).unwrap();
        }
        let hba = cluster.join("pg_hba.conf");
        let rest = fs::read_to_string(&hba).unwrap();
        fs::write(&hba, format!("{access}\n{rest}")).unwrap();
    })
    .await
}

/// The log and error of a start that fails without waiting.
async fn fails(url: &str) -> String {
    let (status, _, stderr) = run(&["serve"], &[("DATABASE_URL", url), ("PORT", "0")]).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("waiting for Postgres"), "{stderr}");
    stderr
}

#[tokio::test]
async fn every_sslmode_checks_as_much_as_libpq_does() {
    let files = Scratch::new();
    Authority::new(files.path(), "ca").issue("server", "server", &["localhost"]);
    Authority::new(files.path(), "other-ca");
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let server = server(files.path(), "").await;
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
        let admin = connect(server.url()).await;
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
        let stderr = fails(&url).await;
        assert!(stderr.contains(error), "{error} is not in {stderr}");
    }
}

#[tokio::test]
async fn a_client_certificate_logs_the_service_in() {
    let files = Scratch::new();
    let authority = Authority::new(files.path(), "ca");
    authority.issue("server", "server", &["localhost"]);
    authority.issue("tidegate", "tidegate", &[]);
    authority.issue("certified", "certified", &[]);
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let access = "hostssl all certified 127.0.0.1/32 cert\n\
                  hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full";
    let server = server(files.path(), access).await;
    let admin = connect(server.url()).await;
    admin.batch_execute("create role certified login superuser").await.unwrap();

    let with_password = server.tcp_url();
    let (_, address) = with_password.split_once('@').unwrap();
    let without_password = format!("postgres://certified@{address}");
    let with = |url: &str, certificate: &str, key: &str| {
        let (ca, certificate, key) = (path("ca.pem"), path(certificate), path(key));
        format!("{url}?sslmode=verify-ca&sslrootcert={ca}&sslcert={certificate}&sslkey={key}")
    };
    for (url, name) in [
        (with(&with_password, "tidegate.pem", "tidegate.key"), "tidegate"),
        (with(&without_password, "certified.pem", "certified.key"), "certified"),
    ] {
        let service = Service::start(&url, &[]).await;
        service.post(&[], "{}").await;
        service.settled().await;
        let subject = "select distinct client_dn from pg_stat_ssl join pg_stat_activity using (pid)
            where application_name = 'tidegate' and usename = $1";
        let rows = admin.query(subject, &[&name]).await.unwrap();
        assert_eq!(rows.len(), 1, "{name}");
        assert!(rows[0].get::<_, &str>(0).contains(&format!("CN={name}")), "{:?}", rows[0]);
        assert!(service.stop().await.status.success());
    }

    let without = format!("{with_password}?sslmode=require");
    for (url, error) in [
        (without, "valid client certificate"),
        (with(&with_password, "certified.pem", "certified.key"), "28"),
        (with(&without_password, "tidegate.pem", "tidegate.key"), "certificate authentication failed"),
        (with(&with_password, "nowhere.pem", "tidegate.key"), "sslcert "),
        (with(&with_password, "tidegate.pem", "nowhere.key"), "sslkey "),
        (with(&with_password, "tidegate.pem", "certified.key"), "TLS"),
    ] {
        let stderr = fails(&url).await;
        assert!(stderr.contains(error), "{error} is not in {stderr}");
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_ends_a_start_at_once() {
    let files = Scratch::new();
    let authority = Authority::new(files.path(), "ca");
    authority.issue("server", "server", &["other.example"]);
    // Signed by no authority but itself.
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let ca = path("ca.pem");
    {
        let server = server(files.path(), "").await;
        let by_name = server.tcp_url().replace("127.0.0.1", "localhost");
        let stderr = fails(&format!("{by_name}?sslmode=verify-full&sslrootcert={ca}")).await;
        assert!(stderr.contains("not valid for name"), "{stderr}");
    }
    fs::write(files.path().join("server.pem"), own.pem()).unwrap();
    fs::write(files.path().join("server.key"), key.serialize_pem()).unwrap();
    let server = server(files.path(), "").await;
    let by_name = server.tcp_url().replace("127.0.0.1", "localhost");
    for roots in [format!("&sslrootcert={ca}"), String::new()] {
        let stderr = fails(&format!("{by_name}?sslmode=verify-full{roots}")).await;
        assert!(stderr.contains("invalid peer certificate"), "{stderr}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_rejected_where_the_url_requires_tls() {
    let server = PrivateServer::start(&[]).await;
    let tcp = server.tcp_url();
    assert!(Service::start(&format!("{tcp}?sslmode=prefer"), &[]).await.stop().await.status.success());
    let stderr = fails(&format!("{tcp}?sslmode=require")).await;
    assert!(stderr.contains("server does not support TLS"), "{stderr}");
}
