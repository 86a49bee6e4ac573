//! How a start meets a database that cannot be reached, or is not what it should be.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Folder, Service, eventually, poll, run};

/// What a start that fails logs and reports.
async fn fails(variables: &[(&str, &str)]) -> String {
    let (status, _, stderr) = run(&["serve"], &[&[("PORT", "0")], variables].concat()).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

#[tokio::test]
async fn what_waiting_does_not_mend_ends_a_start_at_once_and_names_host_port_and_database() {
    let server = PrivateServer::start(&[]).await;
    let tcp: tokio_postgres::Config = server.tcp_url().parse().unwrap();
    let port = tcp.get_ports()[0];
    let right = String::from_utf8(tcp.get_password().unwrap().to_vec()).unwrap();
    let target = format!("127.0.0.1:{port}, database tidegate");
    let at = |user: &str, password: &str, rest: &str| {
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{rest}")
    };
    for (url, cause, target) in [
        (at("tidegate", "a-wrong-one", "tidegate"), "28P01 ", target.as_str()),
        (at("nobody", "a-wrong-one", "tidegate"), "28P01 ", target.as_str()),
        (at("tidegate", &right, "nowhere"), "3D000 ", "database nowhere"),
        (at("tidegate", &right, "tidegate?sslmode=require"), "server does not support TLS", target.as_str()),
        (format!("postgres://tidegate@127.0.0.1:{port}/tidegate"), "password missing", target.as_str()),
    ] {
        let stderr = fails(&[("DATABASE_URL", &url)]).await;
        assert!(stderr.contains(cause) && stderr.contains(target), "{cause} at {target}: {stderr}");
        assert!(!stderr.contains("waiting for Postgres"), "{stderr}");
        assert!(!stderr.contains("a-wrong-one") && !stderr.contains(&right), "a password is in {stderr}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_known_is_tried_three_times() {
    let stderr = fails(&[("DATABASE_URL", "postgres://u:secret@nowhere.invalid:5433/d")]).await;
    assert!(stderr.contains("nowhere.invalid:5433, database d"), "{stderr}");
    // A resolver that is not there is no answer, and waited for.
    if !stderr.contains("emporary failure") {
        assert_eq!(stderr.matches("waiting for Postgres").count(), 2, "{stderr}");
    }
    assert!(!stderr.contains("secret"), "{stderr}");
}

#[tokio::test]
async fn a_port_that_is_closed_is_waited_for_and_named() {
    let stderr = fails(&[("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d?connect_timeout=1")]).await;
    assert!(stderr.contains("waiting for Postgres"), "{stderr}");
    assert!(stderr.contains("cannot connect to 127.0.0.1:1, database d"), "{stderr}");
}

#[tokio::test]
async fn a_start_logs_its_wait_for_postgres_at_growing_intervals() {
    let stderr = fails(&[("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d?connect_timeout=1")]).await;
    // At once, after 1 s, 3 s and 7 s; the next one would come after 15 s.
    let lines = stderr.matches("waiting for Postgres").count();
    assert!((1..=4).contains(&lines), "{stderr}");
}

#[tokio::test]
async fn the_first_of_several_hosts_that_answers_is_taken() {
    let server = PrivateServer::start(&[]).await;
    // The first accepts and says nothing, as a postmaster that is stopped; the second is closed.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let tcp = server.tcp_url();
    let (head, address) = tcp.split_once("@127.0.0.1:").unwrap();
    let url = format!(
        "{head}@127.0.0.1:{silent_port},127.0.0.1:1,127.0.0.1:{address}?target_session_attrs=primary&connect_timeout=1"
    );
    let service = Service::start(&url, &[]).await;
    service.post(&[], "{}").await;
    assert_eq!(service.settled().await["committed"], 1);
}

#[tokio::test]
async fn a_stopped_postmaster_holds_up_no_event_at_a_start() {
    let server = PrivateServer::start(&[]).await;
    let folder = Folder::new();
    let url =
        format!("{}{}connect_timeout=1", server.url(), if server.url().contains('?') { "&" } else { "?" });
    let variables = [("DATABASE_URL", url.as_str()), ("DATA_DIR", folder.path())];
    // The journal's folder learns that the database has the tables.
    assert!(Service::start_with(&variables).await.stop().await.status.success());
    let postmaster = Pid::from_raw(server.pid());
    kill(postmaster, Signal::SIGSTOP).unwrap();
    let service = Service::start_with(&variables).await;
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
    let health = service.health().await;
    assert_eq!((&health["committed"], &health["promise"]), (&json!(0), &json!("journaled")));
    assert!(service.log().contains("no answer within"), "{}", service.log());
    kill(postmaster, Signal::SIGCONT).unwrap();
    assert_eq!(service.settled().await["committed"], 1);
}

#[tokio::test]
async fn a_server_that_stops_answering_after_log_in_holds_up_no_event_at_a_start() {
    let server = PrivateServer::start(&[]).await;
    let folder = Folder::new();
    let variables = [("DATABASE_URL", server.url()), ("DATA_DIR", folder.path())];
    assert!(Service::start_with(&variables).await.stop().await.status.success());
    // Each backend of the service is stopped as soon as it is there: statements hang, and connections do not.
    let admin = connect(server.url()).await;
    let mut stopped: Vec<i32> = Vec::new();
    let backends = "select pid from pg_stat_activity where application_name = 'tidegate'";
    let stopping =
        poll("the service is up", Duration::from_millis(1), Duration::from_secs(120), async || {
            for row in admin.query(backends, &[]).await.unwrap() {
                let pid: i32 = row.get(0);
                if !stopped.contains(&pid) && kill(Pid::from_raw(pid), Signal::SIGSTOP).is_ok() {
                    stopped.push(pid);
                }
            }
            None::<()>
        });
    let starting = async {
        let service = Service::start_with(&variables).await;
        assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
        service
    };
    let service = tokio::select! {
        service = starting => service,
        () = stopping => unreachable!("it never returns"),
    };
    for pid in stopped {
        let _gone = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    eventually("it is stored once the server answers", async || {
        (service.health().await["committed"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_data_dir_that_cannot_be_written_to_is_reported_as_that() {
    let database = TestDatabase::create().await;
    let file = Folder::new();
    let taken = format!("{}/file", file.path());
    std::fs::write(&taken, "").unwrap();
    for dir in [taken.as_str(), "/proc/tidegate", "/sys/tidegate"] {
        for url in [database.url(), ""] {
            let stderr = fails(&[("DATABASE_URL", url), ("DATA_DIR", dir)]).await;
            assert!(stderr.contains(&format!("DATA_DIR {dir} cannot be used")), "{stderr}");
            assert!(!stderr.contains("JWT_SECRET"), "{stderr}");
        }
    }
}
