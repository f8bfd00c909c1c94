//! `relay run`.

use std::num::NonZeroU32;

use sealway::{Policy, RelayConfig};

use crate::{
    arguments, config,
    failure::Failure,
    identity::{self, Named},
    logs::{self, Log},
    media::{Media, taken_over},
    metrics::{self, Source},
    service, talk,
};

pub(crate) async fn run(options: &arguments::Relay) -> Result<(), Failure> {
    let settings = config::Relay::of(options)?;
    settings.listen.iter().try_for_each(|address| identity::check_address(address).map(drop))?;
    let (interrupted, hangups) = (talk::interrupted(), talk::hangups()?);
    let media = Media::new(&settings.web, options.record.as_deref())?;
    let identity = identity::open(&settings.vault)?;
    let clients = who_may_attach(&settings)?;
    if clients.admitted().next().is_none() {
        eprintln!("nobody may attach to this relay: name clients with --allow ID|CARD");
    }
    let config = match settings.client_rate.and_then(NonZeroU32::new) {
        Some(rate) => RelayConfig::default().with_client_rate(rate),
        None => RelayConfig::default(),
    };
    let node = talk::builder(identity, &media)
        .store(talk::store(&settings.vault, settings.data.as_deref())?)
        .accept(clients)
        .relay(config)
        .start()
        .await?;
    for address in &settings.listen {
        println!("listening on {}", node.listen(address).await?);
    }
    if let Some(address) = settings.metrics {
        let source = Source::Node(node.clone());
        println!("metrics on http://{}/metrics", metrics::serve(source, address).await?);
    }
    let ended = service::run(interrupted, hangups, async || {
        let new = config::Relay::of(options)?;
        let clients = who_may_attach(&new)?;
        // What can fail comes first: then all of it is taken over, or nothing.
        media.show(&new.web)?;
        node.accept_only(clients).await?;
        logs::set_level(new.log.level);
        let log = Log { level: settings.log.level, ..new.log };
        let stays =
            config::Relay { allow: settings.allow.clone(), web: taken_over(&settings.web, &new.web), log, ..new };
        if stays != settings {
            tracing::warn!("all but allow, the certificate and the level of logs is taken over at the next start");
        }
        Ok(())
    });
    ended.await?;
    node.shutdown().await;
    Ok(())
}

/// Who may attach.
fn who_may_attach(settings: &config::Relay) -> Result<Policy, Failure> {
    let allowed = settings.allow.iter().map(|text| Named::parse(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(identity::policy(&allowed))
}
