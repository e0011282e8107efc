//! A network proxy that can be slow, hang, pass only one direction, or break connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join;
use miette::{IntoDiagnostic, Result, miette};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The data that passes. Other data is kept until it may pass; neither side notices, not even the end of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Both directions.
    Both,
    /// Only data of the client.
    ToServer,
    /// Only data of the server.
    ToClient,
    Nothing,
}

/// A proxy in front of a server; dropping it breaks all connections through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    _accepting: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct Network {
    passes: Passes,
    /// How often all connections have been broken.
    cuts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Starts a proxy for the server at this URL. Each byte is delayed by `delay` in each direction.
    pub async fn start(server: &str, delay: Duration) -> Result<Self> {
        let (_, server) = server.split_once("://").ok_or_else(|| miette!("{server} is no URL"))?;
        let server: SocketAddr = server.parse().into_diagnostic()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.into_diagnostic()?;
        let address = listener.local_addr().into_diagnostic()?;
        let (network, watched) = watch::channel(Network { passes: Passes::Both, cuts: 0 });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server, delay, watched));
        Ok(Self { address, network, _accepting: accepting })
    }

    /// Returns the URL for clients.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Changes the data that passes, on old and new connections.
    pub fn let_pass(&self, passes: Passes) {
        self.network.send_modify(|network| network.passes = passes);
    }

    /// Breaks all connections. Clients can reconnect at once.
    pub fn cut(&self) {
        self.network.send_modify(|network| network.cuts += 1);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, delay: Duration, network: watch::Receiver<Network>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                connections.spawn(connect(client, server, delay, network.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Relays one connection until both sides have closed it, or it is cut.
async fn connect(client: TcpStream, server: SocketAddr, delay: Duration, mut network: watch::Receiver<Network>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let cuts = network.borrow().cuts;
    let up = carry(from_client, to_server, delay, Direction::ToServer, network.clone());
    let down = carry(from_server, to_client, delay, Direction::ToClient, network.clone());
    tokio::select! {
        _ = join(up, down) => {}
        _ = network.wait_for(|network| network.cuts != cuts) => {}
    }
}

/// Relays one direction, each byte after the delay, and finally the end of the stream.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    direction: Direction,
    mut network: watch::Receiver<Network>,
) {
    let (sender, mut under_way) = mpsc::unbounded_channel();
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            sender.send((Instant::now() + delay, buffer.get(..count).unwrap_or_default().to_vec())).ok();
        }
        sender.send((Instant::now() + delay, Vec::new())).ok();
    };
    let writing = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            sleep_until(due).await;
            if network.wait_for(|network| network.passes.lets(direction)).await.is_err() {
                return;
            }
            let passed_on = if bytes.is_empty() { to.shutdown().await } else { to.write_all(&bytes).await };
            if passed_on.is_err() {
                return;
            }
        }
    };
    join(reading, writing).await;
}

impl Passes {
    fn lets(self, direction: Direction) -> bool {
        match self {
            Self::Both => true,
            Self::ToServer => direction == Direction::ToServer,
            Self::ToClient => direction == Direction::ToClient,
            Self::Nothing => false,
        }
    }
}
