//! Connections: how many, how long they may take to ask, and how they end.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use crate::stop::Stop;

/// Maximum number of connections.
const MOST: usize = 1024;
/// How long the headers of a request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause after a connection could not be accepted, for example because there are too many files.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until the server is stopped; then lets the present requests end.
pub async fn serve(listener: TcpListener, router: Router, stop: Stop) {
    let room = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let seat = room.clone().acquire_owned().await;
            (seat, listener.accept().await)
        };
        let (seat, stream) = tokio::select! {
            () = stop.wait() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            (seat, accepted) = accepted => match accepted {
                Ok((stream, _)) => (seat, stream),
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            // Errors of a connection concern nobody else.
            let ended = tokio::select! {
                ended = connection.as_mut() => Some(ended),
                () = stop.wait() => None,
            };
            if ended.is_none() {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            drop(seat);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
