//! What a node counts, for Prometheus, and whether it is well, over HTTP.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use sealway::{Kind, Node, Statistics};
use tokio::{net::TcpListener, time::timeout};

use crate::failure::Failure;

/// A node that has not answered in so long is not well.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves `/metrics` and `/health` until the runtime ends. Returns the address.
pub(crate) async fn serve(node: Node, address: SocketAddr) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| Failure::failed(format!("--metrics {address}: {error}")))?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let app = Router::new().route("/metrics", get(metrics)).route("/health", get(health)).with_state(node);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(address)
}

async fn ask(node: &Node) -> Option<Statistics> {
    timeout(PATIENCE, node.statistics()).await.ok()?.ok()
}

async fn health(State(node): State<Node>) -> (StatusCode, &'static str) {
    match ask(&node).await {
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node does not answer\n"),
        Some(statistics) if statistics.store_is_down > 0 => {
            (StatusCode::SERVICE_UNAVAILABLE, "the last write to the store has failed\n")
        }
        Some(_) => (StatusCode::OK, "ok\n"),
    }
}

async fn metrics(State(node): State<Node>) -> Response {
    let Some(statistics) = ask(&node).await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let mut registry = Registry::with_prefix("sealway");
    registry.register_collector(Box::new(Snapshot(statistics)));
    let mut out = String::new();
    match text::encode(&mut out, &registry) {
        Ok(()) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], out).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Debug)]
struct Snapshot(Statistics);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for figure in self.0.each() {
            // The format ends the sentence by itself.
            let help = figure.help.trim_end_matches('.');
            match figure.kind {
                Kind::Counter => {
                    let counter = ConstCounter::new(figure.value);
                    counter.encode(encoder.encode_descriptor(figure.name, help, None, counter.metric_type())?)?;
                }
                _ => {
                    let gauge = ConstGauge::new(i64::try_from(figure.value).unwrap_or(i64::MAX));
                    gauge.encode(encoder.encode_descriptor(figure.name, help, None, gauge.metric_type())?)?;
                }
            }
        }
        Ok(())
    }
}
