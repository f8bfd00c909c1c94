//! What a node counts, for Prometheus, and whether it is well, over HTTP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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
use sealway::{Counts, Gateway, Kind, Node};
use tokio::{net::TcpListener, time::timeout};

use crate::failure::Failure;

/// A node that has not answered in so long is not well.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves `/metrics` and `/health` until the runtime ends. Returns the address.
pub(crate) async fn serve(source: Source, address: SocketAddr) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| Failure::failed(format!("--metrics {address}: {error}")))?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let app = Router::new().route("/metrics", get(metrics)).route("/health", get(health)).with_state(source);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(address)
}

/// What counts.
#[derive(Clone)]
pub(crate) enum Source {
    Node(Node),
    Gateway(Arc<Gateway>),
}

/// One figure.
#[derive(Debug)]
struct Figure {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    value: u64,
}

/// What was counted, and what is wrong, if anything is.
struct Reading {
    figures: Vec<Figure>,
    wrong: Option<&'static str>,
}

impl Source {
    async fn read(&self) -> Option<Reading> {
        match self {
            Self::Node(node) => {
                let statistics = timeout(PATIENCE, node.statistics()).await.ok()?.ok()?;
                let figures = statistics.each().map(|told| Figure {
                    kind: told.kind,
                    name: told.name,
                    help: told.help,
                    value: told.value,
                });
                let figures = figures.collect();
                let wrong = (statistics.store_is_down > 0).then_some("the last write to the store has failed\n");
                Some(Reading { figures, wrong })
            }
            Self::Gateway(gateway) => {
                let counts = gateway.counts();
                let wrong = counts.is_cut_off.then_some("the relay is not reached\n");
                Some(Reading { figures: figures(&counts), wrong })
            }
        }
    }
}

fn figures(counts: &Counts) -> Vec<Figure> {
    let figure = |kind, name, help, value| Figure { kind, name, help, value };
    let (gauge, counter) = (Kind::Gauge, Kind::Counter);
    vec![
        figure(gauge, "gateway_links", "Links of devices that are up.", counts.links),
        figure(gauge, "gateway_uplinks", "Links to a relay that are up.", counts.uplinks),
        figure(counter, "gateway_failed_uplinks", "Links to a relay that could not be made.", counts.failed_uplinks),
        figure(
            counter,
            "gateway_unanswered_uplinks",
            "Links to a relay on which nothing has come.",
            counts.unanswered_uplinks,
        ),
        figure(counter, "gateway_refused_links", "Links of devices that were turned away.", counts.refused_links),
        figure(counter, "gateway_frames_up", "Frames carried to a relay.", counts.frames_up),
        figure(counter, "gateway_octets_up", "Octets carried to a relay.", counts.octets_up),
        figure(counter, "gateway_frames_down", "Frames carried to devices.", counts.frames_down),
        figure(counter, "gateway_octets_down", "Octets carried to devices.", counts.octets_down),
        figure(counter, "gateway_dropped_frames", "Frames that could not be carried.", counts.dropped_frames),
    ]
}

async fn health(State(source): State<Source>) -> (StatusCode, &'static str) {
    match source.read().await {
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node does not answer\n"),
        Some(Reading { wrong: Some(wrong), .. }) => (StatusCode::SERVICE_UNAVAILABLE, wrong),
        Some(_) => (StatusCode::OK, "ok\n"),
    }
}

async fn metrics(State(source): State<Source>) -> Response {
    let Some(reading) = source.read().await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let mut registry = Registry::with_prefix("sealway");
    registry.register_collector(Box::new(Snapshot(reading.figures)));
    let mut out = String::new();
    match text::encode(&mut out, &registry) {
        Ok(()) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], out).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Debug)]
struct Snapshot(Vec<Figure>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for figure in &self.0 {
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
