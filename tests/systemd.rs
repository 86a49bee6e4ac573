//! Notifications to systemd, the manual pages, completions, and `tidegate config check`.

use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually, program, run};

/// A socket as systemd gives it to a service.
struct NotifySocket {
    socket: UnixDatagram,
    path: String,
    _folder: Folder,
}

impl NotifySocket {
    fn open() -> Self {
        let folder = Folder::new();
        let path = format!("{}/notify", folder.path());
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, _folder: folder }
    }

    async fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

#[tokio::test]
async fn systemd_is_notified_of_readiness_signs_of_life_and_the_stop() {
    let (database, notify) = (TestDatabase::create().await, NotifySocket::open());
    let service = Service::start(
        database.url(),
        &[("NOTIFY_SOCKET", notify.path.as_str()), ("WATCHDOG_USEC", "200000")],
    )
    .await;
    assert_eq!(notify.next().await, "READY=1\n");
    for _ in 0..3 {
        assert_eq!(notify.next().await, "WATCHDOG=1\n");
    }
    let health = service.health().await;
    assert!(health["tasks"].as_array().unwrap().iter().any(|task| task["name"] == "watchdog"));
    service.signal(Signal::SIGTERM);
    let mut last = notify.next().await;
    while last == "WATCHDOG=1\n" {
        last = notify.next().await;
    }
    assert_eq!(last, "STOPPING=1\n");
    assert_eq!(service.ended().await.status.code(), Some(0));
}

#[tokio::test]
async fn a_notify_socket_that_is_gone_stops_nothing() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("NOTIFY_SOCKET", "/nowhere/notify")]).await;
    eventually("it is logged", async || service.logged("systemd cannot be notified")).await;
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
    assert_eq!(service.stop().await.status.code(), Some(0));
}

#[tokio::test]
async fn config_check_lists_values_and_origins_without_secrets() {
    let folder = Folder::new();
    std::fs::write(format!("{}/.env", folder.path()), "PORT=4001\nBATCH_SIZE=7\n").unwrap();
    let variables = [("PORT", "4000"), ("DATABASE_URL", "postgres://u:hidden-word@localhost/d")];
    let output = program(&["config", "check"], &variables).current_dir(folder.path()).output().await.unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{listed}");
    let line = |name: &str| {
        let line = listed.lines().find(|line| line.trim_start_matches('#').starts_with(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("PORT"), "PORT=4000 # environment");
    assert_eq!(line("BATCH_SIZE"), "BATCH_SIZE=7 # .env");
    assert_eq!(line("MAX_QUEUE_SIZE"), "MAX_QUEUE_SIZE=200000 # default");
    assert_eq!(line("WRITERS"), "WRITERS=2 # derived");
    assert_eq!(line("DATABASE_URL"), "DATABASE_URL=*** # environment");
    assert_eq!(line("RETENTION_DAYS"), "#RETENTION_DAYS= # unset");
    assert!(!listed.contains("hidden-word"));

    // The list is an .env file with the same effect.
    let copy = Folder::new();
    std::fs::write(format!("{}/.env", copy.path()), listed.replace("DATABASE_URL=***", "DATABASE_URL="))
        .unwrap();
    let output = program(&["config", "check"], &[]).current_dir(copy.path()).output().await.unwrap();
    let again = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && again.contains("BATCH_SIZE=7"), "{again}");

    let (status, _, stderr) = run(&["config", "check"], &[("PORT", "many")]).await;
    assert_eq!((status.code(), stderr.contains("PORT: got \"many\"")), (Some(2), true), "{stderr}");
}

#[tokio::test]
async fn manual_pages_and_completions_know_every_command() {
    let folder = Folder::new();
    let (status, _, stderr) = run(&["man", folder.path()], &[]).await;
    assert!(status.success(), "{stderr}");
    let (_, help, _) = run(&["--help"], &[]).await;
    let (_, script, _) = run(&["completions", "bash"], &[]).await;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"serve") && commands.contains(&"config"), "{help}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        let page = std::fs::read_to_string(format!("{}/tidegate-{command}.1", folder.path())).unwrap();
        assert!(page.contains(".TH"), "{command}");
        assert!(script.contains(command), "{command}");
    }
    let (_, version, _) = run(&["--version"], &[]).await;
    assert!(version.starts_with(concat!("tidegate ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
}

#[tokio::test]
async fn a_command_whose_output_nobody_reads_goes_on_to_its_end() {
    for arguments in [&["config", "check"][..], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = program(arguments, &[]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    }
}
