//! `[[media]]` as the machines need it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use config::{Config, Media, MediaSide, OnMediaFailure};
use ng::{Dtls, Family, Ice, Member, Probe, Profile, Side, Transport};
use proxy::{MediaSet, OnFailure};

/// The sets of a configuration.
pub(crate) fn sets(config: &Config) -> Vec<Arc<MediaSet>> {
    config
        .media
        .iter()
        .map(|media| Arc::new(set(media)))
        .collect()
}

fn set(media: &Media) -> MediaSet {
    MediaSet {
        name: media.name.clone(),
        profile: Profile {
            replace: media.replace.clone(),
            flags: media.flags.clone(),
            sip_source: media.sip_source,
            caller: side(&media.caller),
            callee: side(&media.callee),
        },
        members: media
            .engines
            .iter()
            .map(|engine| Member {
                address: engine.address,
                weight: engine.weight.into(),
            })
            .collect(),
        timeout: media.timeout,
        on_failure: match media.on_failure {
            OnMediaFailure::Reject(code) => OnFailure::Reject(code),
            OnMediaFailure::Pass => OnFailure::Pass,
        },
    }
}

fn side(side: &MediaSide) -> Side {
    Side {
        ice: side.ice.as_deref().and_then(Ice::named),
        transport: side.transport.as_deref().and_then(Transport::named),
        family: side.family.as_deref().and_then(Family::named),
        dtls: side.dtls.as_deref().and_then(Dtls::named),
        interface: side.interface.clone(),
        rtcp_mux: side.rtcp_mux.clone(),
        sdes: side.sdes.clone(),
        flags: side.flags.clone(),
    }
}

/// Every engine once; one of several sets is judged as the first of them says.
pub(super) fn engines(config: &Config) -> ng::Settings {
    let mut engines: BTreeMap<SocketAddr, Probe> = BTreeMap::new();
    for media in &config.media {
        let probe = Probe {
            interval: media.probe_interval,
            down_after: media.down_after.into(),
            up_after: media.up_after.into(),
        };
        for engine in &media.engines {
            engines.entry(engine.address).or_insert(probe);
        }
    }
    ng::Settings {
        engines: engines.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration knows the names that the protocol's crate knows.
    #[test]
    fn every_choice_of_the_configuration_is_one_of_the_protocol() {
        let load = |key: &str, value: &str| {
            let text = format!(
                "[[media]]\nname = 'm'\nengines = [{{ address = '192.0.2.1:2223' }}]\ncallee = {{ {key} = '{value}' }}\n"
            );
            config::load(&text, "test").ok().map(|(config, _)| {
                let set = sets(&config).remove(0);
                set.profile.callee.clone()
            })
        };
        let names = [
            ("ice", Ice::NAMES),
            ("transport", Transport::NAMES),
            ("family", Family::NAMES),
            ("dtls", Dtls::NAMES),
        ];
        for (key, names) in names {
            assert_eq!(load(key, "nonsense"), None);
            for name in names {
                let side = load(key, name).expect(name);
                let said = [
                    side.ice.map(Ice::name),
                    side.transport.map(Transport::name),
                    side.family.map(Family::name),
                    side.dtls.map(Dtls::name),
                ];
                assert!(said.contains(&Some(*name)), "{key} = {name}");
            }
        }
    }
}
