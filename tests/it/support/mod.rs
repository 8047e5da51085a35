//! What every test of the whole gateway needs: a database, the binary running on it, somebody to call its API.
//!
//! Providers and receivers come from `signalbox::sim`. A test is written once with [`on_both!`] and runs on SQLite
//! and on PostgreSQL.

mod app;
mod backend;
mod contract;
mod disks;
mod ledger;
mod own_postgres;
#[path = "../../support/postgres.rs"]
mod postgres;
mod power;
mod stage;
#[path = "../../support/wire.rs"]
#[expect(dead_code, reason = "the store's suite does more with it")]
mod wire;

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

pub use app::{App, Connected, Options};
pub use backend::Backend;
pub use contract::{Contract, Operation};
pub use disks::{SmallDisk, in_memory};
pub use ledger::{Deliveries, Load, Webhook};
pub use own_postgres::OwnPostgres;
pub use power::{Cut, Flushes, Recorder, Trace, Unflushed};
pub use stage::{Stage, code};
pub use wire::Wire;

/// Defines tests that run on both databases: `on_both! { async fn a_sentence(backend) { … } }`.
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($backend:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn case($backend: $crate::support::Backend) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                case($crate::support::Backend::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                if let Some(backend) = $crate::support::Backend::postgres().await {
                    case(backend).await;
                }
            }
        }
    )*};
}
pub(crate) use on_both;

/// A port where nobody listens, and nobody else can as long as the socket is held: it is bound and does not listen.
pub fn nobody_listening() -> (TcpSocket, SocketAddr) {
    let reserved = TcpSocket::new_v4().expect("a socket");
    reserved.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let address = reserved.local_addr().expect("bound");
    (reserved, address)
}
