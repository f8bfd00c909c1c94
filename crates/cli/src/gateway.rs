//! `gateway run`.

use std::sync::Arc;

use sealway::Gateway;

use crate::{
    arguments, config,
    failure::Failure,
    identity,
    logs::{self, Log},
    media::{Media, taken_over},
    metrics::{self, Source},
    service, talk,
};

pub(crate) async fn run(options: &arguments::Gateway) -> Result<(), Failure> {
    let settings = config::Gateway::of(options)?;
    let addresses = settings.link.iter().chain(&settings.uplink);
    addresses.into_iter().try_for_each(|address| identity::check_address(address).map(drop))?;
    let (interrupted, hangups) = (talk::interrupted(), talk::hangups()?);
    let media = Media::new(&settings.web, options.record.as_deref())?;
    let builder = media.transports().into_iter().fold(Gateway::builder(), sealway::GatewayBuilder::transport);
    let builder = settings.link.iter().fold(builder, |builder, address| builder.link(address));
    let builder = settings.uplink.iter().fold(builder, |builder, address| builder.uplink(address));
    let gateway = Arc::new(builder.start().await.map_err(|error| match error {
        sealway::GatewayError::Link(error) => Failure::failed(error),
        error => Failure::given(error),
    })?);
    for address in gateway.addresses() {
        println!("devices at {address}");
    }
    if let Some(address) = settings.metrics {
        let source = Source::Gateway(gateway.clone());
        println!("metrics on http://{}/metrics", metrics::serve(source, address).await?);
    }
    let ended = service::run(interrupted, hangups, async || {
        let new = config::Gateway::of(options)?;
        media.show(&new.web)?;
        logs::set_level(new.log.level);
        let log = Log { level: settings.log.level, ..new.log };
        let stays = config::Gateway { web: taken_over(&settings.web, &new.web), log, ..new };
        if stays != settings {
            tracing::warn!("all but the certificate and the level of logs is taken over at the next start");
        }
        Ok(())
    });
    ended.await?;
    gateway.shutdown().await;
    Ok(())
}
