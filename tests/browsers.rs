//! A real browser, and pages of other origins in it: what they can send, and which answers they can read.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::accounts::{guarded, key, token_with};
use crate::support::imports::count;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, eventually, poll};

/// Chromium without a window; ended when dropped.
struct Browser {
    process: Child,
    _profile: Folder,
}

impl Browser {
    /// A browser that opens a page; `None` where none is installed, which CI does not let pass.
    fn open(url: &str) -> Option<Self> {
        let binary = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        let Some(binary) = binary.into_iter().find(|path| std::fs::exists(path).unwrap_or(false)) else {
            assert!(std::env::var_os("TIDEGATE_NEEDS_BROWSER").is_none(), "Chromium is not installed");
            eprintln!("skipped: Chromium is not installed");
            return None;
        };
        let profile = Folder::new();
        let process = {
            use std::os::unix::process::CommandExt;
            Command::new(binary)
                .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
                .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
                // With a debugger it stays when the page is loaded.
                .arg("--remote-debugging-port=0")
                .arg(format!("--user-data-dir={}", profile.path()))
                .arg(url)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Its own group, so that its many processes end with it.
                .process_group(0)
                .spawn()
        };
        Some(Self { process: process.unwrap(), _profile: profile })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.process.id() as i32);
        let _ended_already = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.process.wait();
    }
}

/// A site with pages of its own. What a page posts to `/report` is kept.
struct Site {
    origin: String,
    pages: Arc<Mutex<BTreeMap<String, String>>>,
    reports: Arc<Mutex<Vec<Value>>>,
}

impl Site {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Another site than the service's 127.0.0.1, not just another port of it.
        let origin = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        let site = Self { origin, pages: Arc::default(), reports: Arc::default() };
        let (pages, reports) = (Arc::clone(&site.pages), Arc::clone(&site.reports));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&pages), Arc::clone(&reports)));
            }
        });
        site
    }

    /// Publishes a page that runs `script` and reports what it returns.
    fn publish(&self, path: &str, script: &str) -> String {
        let page = format!(
            "<!doctype html><meta charset=utf-8><title>{path}</title><script type=module>
             const run = async () => {{ {script} }};
             const report = await run().catch((error) => ({{ error: String(error) }}));
             await fetch('/report', {{ method: 'POST', body: JSON.stringify(report) }});
             if (report.next) location.href = report.next;
             </script>"
        );
        self.pages.lock().unwrap().insert(path.to_owned(), page);
        format!("{}{path}", self.origin)
    }

    /// The first report of its pages. A browser takes a while to start on a busy machine.
    async fn report(&self) -> Value {
        let what = format!("a page of {} reports", self.origin);
        poll(&what, Duration::from_millis(20), Duration::from_secs(120), async || {
            self.reports.lock().unwrap().first().cloned()
        })
        .await
    }
}

/// Answers the requests of one connection.
async fn serve(
    mut stream: TcpStream,
    pages: Arc<Mutex<BTreeMap<String, String>>>,
    reports: Arc<Mutex<Vec<Value>>>,
) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length = length.map_or(0, |length| length.trim().parse::<usize>().unwrap());
        while read.len() < end + length {
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        }
        let path = head.split(' ').nth(1)?.to_owned();
        if path == "/report" {
            reports.lock().unwrap().push(serde_json::from_slice(&read[end..end + length]).unwrap());
        }
        read.drain(..end + length);
        let page = pages.lock().unwrap().get(&path).cloned();
        let (status, page) = page.map_or(("204 No Content", String::new()), |page| ("200 OK", page));
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}",
            page.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Pages of an allowed origin and of the origin of a write-only key, in that order, and one of neither.
#[tokio::test]
async fn a_browser_delivers_beacons_and_traced_requests_of_allowed_origins_and_no_others() {
    let database = TestDatabase::create().await;
    let (allowed, published, foreign) = (Site::new().await, Site::new().await, Site::new().await);
    let service = guarded(&database, &[("CORS_ORIGINS", &allowed.origin)]).await;
    let target = format!("http://{}", service.address);
    let write_only = key(&database, &["--write-only", "--origin", &published.origin]).await;
    let bearer = token_with(&["events:write"]);

    // No key in the URL: pages of an allowed origin send a token by `fetch`, and tracers add headers of their own.
    let traced = r#"
        'content-type': 'application/json', 'ce-id': '1', 'ce-source': 'page', baggage: 'a=b',
        traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'sentry-trace': '1-2-1'"#;
    let beacons = format!(
        r#"
        const events = `{target}/api/v1/events`, query = '?key={write_only}';
        const blob = (text, type) => new Blob([text], {{ type }});
        const sent = [
            navigator.sendBeacon(events + query, blob('{{"via":"json"}}', 'application/json')),
            navigator.sendBeacon(`${{events}}/batch${{query}}`, blob('{{"via":"ndjson"}}\n', 'application/x-ndjson')),
            navigator.sendBeacon(`${{events}}/batch${{query}}`, '{{"via":"text"}}\n{{"via":"text"}}'),
        ];
        addEventListener('pagehide', () => navigator.sendBeacon(events + query, '{{"via":"pagehide"}}'));
        const answer = await fetch(`${{events}}/${{query}}`, {{
            method: 'POST', keepalive: true, headers: {{ {traced} }}, body: '{{"via":"keepalive"}}',
        }});
        const statuses = [];
        for (const [url, method] of [[`${{events}}${{query}}x`, 'POST'], [`{target}/api/health${{query}}`, 'GET']]) {{
            statuses.push(await fetch(url, {{ method }}).then((answer) => answer.status, () => 'no answer'));
        }}"#
    );
    let last = foreign.publish(
        "/",
        &format!(
            r"{beacons}
            const simple = await fetch(`${{events}}/batch${{query}}`, {{ method: 'POST', body: '{{}}' }});
            return {{ sent, status: answer.status, simple: simple.status, statuses }};"
        ),
    );
    let second = published.publish(
        "/",
        &format!("{beacons} return {{ sent, status: answer.status, ack: answer.headers.get('x-ack'), statuses, next: '{last}' }};"),
    );
    let first = allowed.publish(
        "/",
        &format!(
            r#"
            const headers = {{ authorization: 'Bearer {bearer}', {traced} }};
            const answer = await fetch('{target}//api/v1/events/batch/?id_field=via', {{
                method: 'POST', headers, credentials: 'include', body: '[{{"via":"fetch"}}]',
            }});
            const json = await answer.json();
            const exposed = ['x-ack', 'x-trace-id', 'x-receipt'].filter((name) => answer.headers.has(name));
            return {{ status: answer.status, json, exposed, next: '{second}' }};"#
        ),
    );

    let Some(_browser) = Browser::open(&first) else { return };
    let report = allowed.report().await;
    assert_eq!((&report["status"], &report["json"]["accepted"]), (&202.into(), &1.into()), "{report}");
    assert_eq!(report["exposed"], serde_json::json!(["x-ack", "x-trace-id", "x-receipt"]), "{report}");
    let report = published.report().await;
    assert_eq!(report["sent"], serde_json::json!([true, true, true]), "{report}");
    assert_eq!((&report["status"], &report["ack"]), (&202.into(), &"journaled".into()), "{report}");
    // A page can read why it is refused where the key belongs, and nothing elsewhere.
    assert_eq!(report["statuses"], serde_json::json!([401, "no answer"]), "{report}");
    let report = foreign.report().await;
    assert_eq!((&report["status"], &report["simple"]), (&403.into(), &403.into()), "{report}");

    let client = database.connect().await;
    let vias = [("fetch", 1), ("json", 1), ("ndjson", 1), ("text", 2), ("keepalive", 1), ("pagehide", 1)];
    for (via, expected) in vias {
        let rows = format!("requests where payload->>'via' = '{via}'");
        eventually(via, async || (count(&client, &rows).await == expected).then_some(())).await;
    }
    let log = service.stop().await.log;
    let all = vias.iter().map(|(_, rows)| rows).sum::<i64>();
    assert_eq!(count(&client, "requests").await, all, "nothing of the other origin is stored");
    assert!(!log.contains(&write_only), "{log}");
}

/// A page of an allowed origin with tickets, and then one of another origin.
#[tokio::test]
async fn a_browser_subscribes_with_tickets_from_an_allowed_origin_and_no_other() {
    let database = TestDatabase::create().await;
    let (allowed, foreign) = (Site::new().await, Site::new().await);
    let service = guarded(&database, &[("CORS_ORIGINS", &allowed.origin)]).await;
    let address = &service.address;
    let bearer = token_with(&["realtime:read:orders/"]);
    let last = foreign.publish(
        "/",
        &format!(
            r#"
            const socket = new WebSocket('ws://{address}/api/events/ws');
            const how = await new Promise((done) => {{
                socket.onopen = () => done('open');
                socket.onclose = (event) => done(event.code);
            }});
            const headers = {{ authorization: 'Bearer {bearer}' }};
            const ticket = await fetch('http://{address}/api/events/ticket', {{ method: 'POST', headers }})
                .then((answer) => answer.status, () => 'no answer');
            return {{ how, ticket }};"#
        ),
    );
    let first = allowed.publish(
        "/",
        &format!(
            r#"
            const headers = {{ authorization: 'Bearer {bearer}' }};
            const ticket = async () => {{
                const answer = await fetch('http://{address}/api/events/ticket', {{ method: 'POST', headers }});
                return (await answer.json()).ticket;
            }};
            const stream = new EventSource(`http://{address}/api/events/stream?topics=topic/orders/1&ticket=${{await ticket()}}`);
            const streamed = new Promise((done) => stream.addEventListener('change', (event) => done(JSON.parse(event.data))));
            const byTicket = new WebSocket(`ws://{address}/api/events/ws?ticket=${{await ticket()}}`);
            const byToken = new WebSocket('ws://{address}/api/events/ws');
            byToken.addEventListener('open', () => byToken.send(JSON.stringify({{ auth: '{bearer}' }})));
            const changes = [byTicket, byToken].map((socket) => new Promise((done, fail) => {{
                socket.addEventListener('open', () => socket.send(JSON.stringify({{ subscribe: ['topic/orders/1'] }})));
                socket.addEventListener('message', ({{ data }}) => {{
                    const frame = JSON.parse(data);
                    if (frame.event === 'change') done(frame.data);
                    if (frame.event === 'error') fail(data);
                }});
                socket.addEventListener('close', (event) => fail(event.code));
            }}));
            const [a, b, c] = await Promise.all([streamed, ...changes]);
            return {{ topics: [a.topic, b.topic, c.topic], next: '{last}' }};"#
        ),
    );
    let Some(_browser) = Browser::open(&first) else { return };
    let client = database.connect().await;
    let publishing = async {
        loop {
            client.batch_execute(&crate::realtime::publish("orders/1", 1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let report = tokio::select! {
        report = allowed.report() => report,
        () = publishing => unreachable!(),
    };
    assert_eq!(
        report["topics"],
        serde_json::json!(["topic/orders/1", "topic/orders/1", "topic/orders/1"]),
        "{report}"
    );
    let report = foreign.report().await;
    assert_eq!((&report["how"], &report["ticket"]), (&1006.into(), &"no answer".into()), "{report}");
}
