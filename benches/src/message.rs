//! Messages from one end to the other, in the ways that several benches compare.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sealway_node::NodeError;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter},
    runtime::Runtime,
};

use crate::machine::{Failure, Talk};

/// Sends `count` messages, and waits until the other application has done with each.
///
/// # Errors
/// If an end fails.
pub async fn talk(talk: Talk, body: Arc<Vec<u8>>, count: u64) -> Result<Talk, Failure> {
    let (from, mut to, nodes) = talk.into_parts();
    let expected = body.len();
    let sends = tokio::spawn(async move {
        let mut last = None;
        for _ in 0..count {
            last = Some(from.send_live(body.as_slice()).await?);
        }
        if let Some(last) = last {
            last.delivered().await?;
        }
        Ok::<_, NodeError>(from)
    });
    let receives = tokio::spawn(async move {
        for _ in 0..count {
            let Some(message) = to.recv().await? else { return Err(NodeError::Closed) };
            assert_eq!(message.body().len(), expected);
            message.done().await?;
        }
        Ok::<_, NodeError>(to)
    });
    let (from, to) = tokio::try_join!(sends, receives)?;
    Ok(Talk::of(from?, to?, nodes))
}

/// Writes `count` messages, each after its length, and reads them at the other end.
///
/// # Errors
/// If an end fails.
pub async fn stream<W, R>((client, server): (W, R), body: Arc<Vec<u8>>, count: u64) -> Result<(W, R), Failure>
where
    W: AsyncWrite + Unpin + Send + 'static,
    R: AsyncRead + Unpin + Send + 'static,
{
    let length = u32::try_from(body.len())?.to_be_bytes();
    let expected = body.len();
    let sends = tokio::spawn(async move {
        let mut client = BufWriter::with_capacity(64 * 1024, client);
        for _ in 0..count {
            client.write_all(&length).await?;
            client.write_all(&body).await?;
        }
        client.flush().await?;
        Ok::<_, std::io::Error>(client.into_inner())
    });
    let receives = tokio::spawn(async move {
        let mut server = BufReader::with_capacity(64 * 1024, server);
        for _ in 0..count {
            let mut body = vec![0; usize::try_from(server.read_u32().await?).unwrap_or(0)];
            server.read_exact(&mut body).await?;
            assert_eq!(body.len(), expected);
        }
        Ok::<_, std::io::Error>(server.into_inner())
    });
    let (client, server) = tokio::try_join!(sends, receives)?;
    Ok((client?, server?))
}

/// One measurement of `run` on a pair of ends, which is taken and put back: so many iterations, or a batch where that is more.
///
/// # Panics
/// If `run` fails.
pub fn measure<T, R: Future<Output = Result<T, Failure>>>(
    runtime: &Runtime,
    ends: &mut Option<T>,
    (iterations, batch): (u64, u64),
    run: impl FnOnce(T, u64) -> R,
) -> Duration {
    let count = iterations.max(batch);
    let Some(pair) = ends.take() else { return Duration::ZERO };
    let start = Instant::now();
    let talked = runtime.block_on(run(pair, count));
    let taken = start.elapsed();
    assert!(talked.is_ok(), "{:?}", talked.as_ref().err());
    *ends = talked.ok();
    taken.mul_f64(iterations as f64 / count as f64)
}
