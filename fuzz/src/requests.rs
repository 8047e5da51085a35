//! The front door: any request to the real gateway, over a real connection, gets an answer that is not our fault.
//!
//! What parses queries, cursors, paths, cookies, states, stream ids and API bodies is reached this way, since nothing of
//! it is public. The gateway runs in this process, on a SQLite file in memory, with the simulated providers' settings.

use std::{
    cell::RefCell,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use signalbox::{app, config::Config, providers::Registry, sim};
use tokio::net::TcpSocket;

use super::webhook::parse;

const KEY: &str = "fuzz-service-key-0123456789-abcdefghijklm";
/// Longer than anything may take, and short of libFuzzer's own limit.
const PATIENCE: Duration = Duration::from_secs(20);
/// Header names that would change how the request is framed: the connection is kept, and its framing is ours.
const FRAMING: [&str; 6] = ["content-length", "transfer-encoding", "connection", "expect", "upgrade", "host"];
/// Answered for as long as the client likes.
const ENDLESS: &str = "/events/stream";
/// After so many requests the next come from another address of this machine: who is refused again and again is made to
/// wait.
const REQUESTS_PER_SOURCE: u32 = 40;

/// `METHOD /target`, header lines, an empty line, the body. A line `x-anonymous` leaves the service key out; then a webhook
/// is signed, so that it goes all the way to the store, unless a line `x-forged` is there too.
pub fn run(data: &[u8]) {
    let Some((method, target, rest)) = first_line(data) else { return };
    let (pairs, body) = parse(rest);
    let mut request = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
    let has = |wanted: &str| pairs.iter().take(24).any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let slug = target.strip_prefix("/webhooks/").filter(|_| has("x-anonymous") && !has("x-forged"));
    let signer = slug.and_then(sim::find);
    for (name, value) in pairs.iter().take(24) {
        let is_token =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let is_plain = value.len() < 1024 && value.iter().all(|byte| *byte == b'\t' || (b' '..=b'~').contains(byte));
        let is_signature = signer.is_some_and(|signer| name.eq_ignore_ascii_case(signer.signing.header));
        if !is_token || !is_plain || is_signature || FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
            continue;
        }
        write!(request, "{name}: {}\r\n", String::from_utf8_lossy(value)).expect("text");
    }
    if let Some(signer) = signer {
        let signature = signer.signing.signature(&body, signer.secret.as_bytes());
        write!(request, "{}: {signature}\r\n", signer.signing.header).expect("text");
    }
    if !has("x-anonymous") {
        write!(request, "x-api-key: {KEY}\r\n").expect("text");
    }
    request.push_str("\r\n");
    let request = [request.as_bytes(), &body].concat();

    let mut spare = SPARE.with_borrow_mut(Option::take);
    let (status, answer) = loop {
        let is_fresh = spare.is_none();
        let connection = spare.take().unwrap_or_else(|| connect(gateway()));
        match exchange(connection, &request, &method, &target) {
            Ok((status, answer, connection)) => {
                let sent = SENT.get() + 1;
                SENT.set(sent);
                SPARE.set(connection.filter(|_| !sent.is_multiple_of(REQUESTS_PER_SOURCE)));
                break (status, answer);
            }
            // A kept connection may have been closed since; a fresh one has no excuse.
            Err(_) if !is_fresh => {}
            Err(error) => panic!("{method} {target}: no answer: {error}"),
        }
    };
    assert!(status != 500, "{method} {target}: {status} {}", String::from_utf8_lossy(&answer));
    if status >= 400 && method != "HEAD" && !answer.is_empty() && answer[0] == b'{' {
        let problem: serde_json::Value = serde_json::from_slice(&answer).expect("a problem is JSON");
        assert!(
            problem["code"].is_string() || problem["error"].is_string() || problem["type"].is_string(),
            "{problem}"
        );
    }
}

thread_local! {
    static SPARE: RefCell<Option<BufReader<TcpStream>>> = const { RefCell::new(None) };
    static SENT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

fn first_line(data: &[u8]) -> Option<(String, String, &[u8])> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = (&data[..end], &data[end + 1..]);
    let space = line.iter().position(|byte| *byte == b' ')?;
    let method = std::str::from_utf8(&line[..space]).ok()?.to_owned();
    if method.is_empty() || method == "CONNECT" || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut target = String::new();
    for &byte in line.get(space + 1..)?.iter().take(2048) {
        if byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte) {
            target.push(char::from(byte));
        } else {
            write!(target, "%{byte:02X}").expect("text");
        }
    }
    (target.starts_with('/') && !target.starts_with("//")).then_some((method, target, rest))
}

type Exchanged = (u16, Vec<u8>, Option<BufReader<TcpStream>>);

/// Sends and reads one answer; the connection, if it stays.
fn exchange(
    mut connection: BufReader<TcpStream>,
    request: &[u8],
    method: &str,
    target: &str,
) -> std::io::Result<Exchanged> {
    connection.get_mut().write_all(request)?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status: u16 = status.ok_or_else(|| std::io::Error::other(format!("not HTTP: {line:?}")))?;
    let (mut length, mut chunked, mut closes) = (None, false, false);
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        let lower = line.trim().to_ascii_lowercase();
        match lower.split_once(": ") {
            _ if lower.is_empty() => break,
            Some(("content-length", value)) => length = value.parse::<usize>().ok(),
            Some(("transfer-encoding", _)) => chunked = true,
            Some(("connection", "close")) => closes = true,
            _ => {}
        }
    }
    let mut answer = Vec::new();
    if chunked && status == 200 && target.starts_with(ENDLESS) {
        return Ok((status, answer, None));
    }
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok((status, answer, (!closes).then_some(connection)));
    }
    if chunked {
        // None of ours but the stream; whoever adds one is told here.
        return Err(std::io::Error::other("an answer in chunks"));
    }
    answer.resize(length.unwrap_or(0), 0);
    connection.read_exact(&mut answer)?;
    Ok((status, answer, (!closes).then_some(connection)))
}

/// A connection from an address of this machine that was not used for a long time.
fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    }
    // 127.1.0.0 to 127.254.255.255; the gateway itself is at 127.0.0.1.
    let source = Ipv4Addr::from(0x7f01_0001 + NEXT.fetch_add(1, Ordering::Relaxed) % 0x00fd_0000);
    let stream = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let socket = TcpSocket::new_v4().expect("a socket");
            // Not every system answers to all of 127.0.0.0/8; there the brake makes it slow, not wrong.
            socket.bind((source, 0).into()).ok();
            socket.connect(address).await.expect("the gateway listens").into_std().expect("a socket")
        })
    });
    stream.set_nonblocking(false).expect("a socket option");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream.set_nodelay(true).expect("a TCP option");
    BufReader::new(stream)
}

/// The gateway of this process, started by whoever comes first. It is never stopped: the process ends with it.
fn gateway() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let (tell, told) = mpsc::channel();
        std::thread::Builder::new()
            .name("gateway".into())
            .spawn(move || {
                let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
                actix_web::rt::System::new().block_on(async {
                    let running = app::start(configuration(memory.path()), None).await.expect("it starts");
                    tell.send(running.address).expect("somebody waits");
                    std::future::pending::<()>().await;
                });
            })
            .expect("a thread");
        told.recv_timeout(PATIENCE).expect("the gateway says where it listens")
    })
}

fn configuration(folder: &std::path::Path) -> Config {
    let usual = [
        ("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("SIGNALBOX_SERVER__WORKERS", "1".to_owned()),
        ("SIGNALBOX_DATABASE__URL", format!("sqlite://{}/fuzz.db", folder.display())),
        ("SIGNALBOX_VAULT__KEY_FILE", folder.join("fuzz.key").display().to_string()),
        ("SIGNALBOX_AUTH__SERVICE_KEY", KEY.to_owned()),
        // Nobody is asked, and nothing is sent anywhere.
        ("SIGNALBOX_PROVIDERS__GITHUB__API_URL", "http://127.0.0.1:9".to_owned()),
        ("SIGNALBOX_PROVIDERS__GITHUB__WEB_URL", "http://127.0.0.1:9".to_owned()),
        ("SIGNALBOX_PROVIDERS__VERCEL__API_URL", "http://127.0.0.1:9".to_owned()),
        ("SIGNALBOX_PROVIDERS__LINEAR__API_URL", "http://127.0.0.1:9".to_owned()),
        ("SIGNALBOX_PROVIDERS__SENTRY__API_URL", "http://127.0.0.1:9".to_owned()),
    ];
    let environment = sim::gateway_settings().chain(usual.map(|(name, value)| (name.to_owned(), value)));
    let specs: Vec<_> = Registry::built_in().iter().map(|listed| listed.spec).collect();
    Config::load(None, environment, &specs).expect("a sound configuration")
}
