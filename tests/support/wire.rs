//! A wire to a PostgreSQL server, on which nodes can be cut off.

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// A wire to the server that can be paused: what is sent through it then goes nowhere, and nothing is closed. Parted, it is
/// as if the server had given up those who went silent, without a word reaching them. Muted, it keeps notifications back and
/// nothing else, as pools of connections between a program and its server do. Deaf, it keeps no connection on which somebody
/// listens.
#[derive(Debug)]
pub struct Wire {
    /// Where the server is at the end of this wire.
    pub url: String,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Muted,
    Deaf,
    Paused,
    Parted,
}

impl Wire {
    /// A wire to the server at this address.
    pub async fn to(server: &str) -> Self {
        let mut url = url::Url::parse(server).expect("a URL");
        let options: PgConnectOptions = server.parse().expect("a PostgreSQL URL");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (state, watched) = watch::channel(State::Open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, options.clone(), Held(watched.clone())));
            }
        });
        url.set_query(Some("sslmode=disable"));
        url.set_host(Some("127.0.0.1")).expect("it has a host");
        url.set_port(Some(port)).expect("it has a port");
        Self { url: url.into(), state }
    }

    /// Nothing arrives any more.
    pub fn pause(&self) {
        self.state.send_replace(State::Paused);
    }

    /// Nothing arrives any more, and the server has given this end up.
    pub fn part(&self) {
        self.state.send_replace(State::Parted);
    }

    /// Notifications do not arrive any more.
    pub fn mute(&self) {
        self.state.send_replace(State::Muted);
    }

    /// Whoever listens is cut off, now and later.
    pub fn lose_listeners(&self) {
        self.state.send_replace(State::Deaf);
    }

    /// Everything arrives again.
    pub fn resume(&self) {
        self.state.send_replace(State::Open);
    }
}

/// What the wire is in.
#[derive(Clone)]
struct Held(watch::Receiver<State>);

impl Held {
    fn is(&self, state: State) -> bool {
        *self.0.borrow() == state
    }

    async fn until(&mut self, wanted: impl Fn(State) -> bool) {
        if self.0.wait_for(|state| wanted(*state)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends once bytes may pass; never when they may not any more.
    async fn lets_pass(&mut self) {
        self.until(|state| matches!(state, State::Open | State::Muted | State::Deaf)).await;
    }
}

/// Who connects while nothing arrives is connected when it does again.
async fn connect(client: TcpStream, options: PgConnectOptions, mut held: Held) {
    held.lets_pass().await;
    if let Some(socket) = options.get_socket().cloned().or_else(|| folder_of_sockets(&options)) {
        let socket = socket.join(format!(".s.PGSQL.{}", options.get_port()));
        let (from, to) = UnixStream::connect(socket).await.expect("the server's socket").into_split();
        carry_both(client, from, to, held).await;
    } else {
        let address = (options.get_host(), options.get_port());
        let (from, to) = TcpStream::connect(address).await.expect("the server").into_split();
        carry_both(client, from, to, held).await;
    }
}

fn folder_of_sockets(options: &PgConnectOptions) -> Option<PathBuf> {
    options.get_host().starts_with('/').then(|| PathBuf::from(options.get_host()))
}

/// Carries until one side is closed, or the wire is parted: then only the server's is, for now.
async fn carry_both(
    mut client: TcpStream,
    from_server: impl AsyncRead + Unpin,
    to_server: impl AsyncWrite + Unpin,
    mut held: Held,
) {
    let (from_client, to_client) = client.split();
    let (there, back) = (held.clone(), held.clone());
    tokio::select! {
        // However it ended: the other side will see that.
        _ended = carry(from_client, to_server, there) => {}
        _ended = carry_messages(from_server, to_client, back) => {}
        () = held.until(|state| state == State::Parted) => {}
    }
    held.lets_pass().await;
}

const LISTEN: &[u8] = b"LISTEN";

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut held: Held,
) -> std::io::Result<()> {
    let (mut bytes, mut deaf, mut listens) = (vec![0; 64 * 1024], held.clone(), false);
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read?,
            () = deaf.until(|state| state == State::Deaf), if listens => 0,
        };
        held.lets_pass().await;
        listens |= bytes[..read].windows(LISTEN.len()).any(|word| word == LISTEN);
        if read == 0 || listens && held.is(State::Deaf) {
            return Ok(());
        }
        to.write_all(&bytes[..read]).await?;
    }
}

/// Carries what a server says, message by message: a letter, a length that counts itself, the rest.
async fn carry_messages(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut held: Held,
) -> std::io::Result<()> {
    const NOTIFICATION: u8 = b'A';
    let mut from = BufReader::new(from);
    loop {
        let (kind, length) = (from.read_u8().await?, from.read_u32().await?);
        let mut message = vec![kind];
        message.extend(length.to_be_bytes());
        message.resize(1 + length as usize, 0);
        from.read_exact(&mut message[5..]).await?;
        held.lets_pass().await;
        if kind != NOTIFICATION || !held.is(State::Muted) {
            to.write_all(&message).await?;
        }
    }
}
