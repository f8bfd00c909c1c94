//! `relay run`.

use std::num::NonZeroU32;

use sealway::RelayConfig;

use crate::{
    arguments::Relay,
    failure::Failure,
    identity::{self, Named},
    metrics, talk,
};

pub(crate) async fn run(options: &Relay) -> Result<(), Failure> {
    options.listen.iter().try_for_each(|address| identity::check_address(address).map(drop))?;
    let interrupted = talk::interrupted();
    let identity = identity::open(&options.vault)?;
    let allowed = options.allow.iter().map(|text| Named::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if allowed.is_empty() {
        eprintln!("nobody may attach to this relay: name clients with --allow ID|CARD");
    }
    let config = match options.client_rate.and_then(NonZeroU32::new) {
        Some(rate) => RelayConfig::default().with_client_rate(rate),
        None => RelayConfig::default(),
    };
    let node = talk::builder(identity)
        .store(talk::store(&options.vault, options.data.as_deref())?)
        .accept(identity::policy(&allowed))
        .relay(config)
        .start()
        .await?;
    for address in &options.listen {
        println!("listening on {}", node.listen(address).await?);
    }
    if let Some(address) = options.metrics {
        println!("metrics on http://{}/metrics", metrics::serve(node.clone(), address).await?);
    }
    interrupted.await?;
    node.shutdown().await;
    Ok(())
}
