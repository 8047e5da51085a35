//! Accepting connections, for the sink and the simulated providers.

use std::time::Duration;

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Serves every connection that comes, until aborted; the connections end with it. `name` is for the log.
pub(super) async fn accept<S: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    name: &'static str,
    serve: impl Fn(TcpStream) -> S,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => drop(connections.spawn(serve(stream))),
            Err(error) => {
                tracing::warn!(%error, "{name} cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
