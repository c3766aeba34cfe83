//! The users of a configuration, ready to be looked up: made once for a process, by its control thread, and shared by its reactors.

use std::collections::HashMap;
use std::sync::Arc;

use auth::{Algorithm, Algorithms, Ha1, Ha1s};
use config::{Config, DigestAlgorithm, Ha1Pair, Secret, StoredSecrets, StoredUser, User};
use proxy::{Account, Identities};

/// Every account, by domain and name.
#[derive(Debug, Default)]
pub struct Accounts {
    domains: HashMap<Vec<u8>, Domain>,
}

#[derive(Debug, Default)]
struct Domain {
    users: HashMap<Vec<u8>, Arc<Account>>,
    /// What some of them need that is not offered to everybody.
    also: Algorithms,
}

impl Accounts {
    pub fn new(config: &Config) -> Self {
        let mut accounts = Self::default();
        let offered = offered(config);
        // The file counts: it comes last.
        for user in &config.stored {
            accounts.add(offered, &user.domain, &user.name, stored(user));
        }
        for user in &config.users {
            accounts.add(offered, &user.domain, &user.name, configured(user));
        }
        accounts
    }

    fn add(&mut self, offered: Algorithms, domain: &str, name: &str, account: Account) {
        let domain = domain.to_ascii_lowercase().into_bytes();
        let domain = self.domains.entry(domain).or_default();
        let known = account.short.algorithms();
        if !known.iter().any(|algorithm| offered.has(algorithm)) {
            domain.also = known.iter().take(1).fold(domain.also, Algorithms::with);
        }
        domain
            .users
            .insert(name.as_bytes().to_vec(), Arc::new(account));
    }

    /// The account of a user, whose name may come with the domain.
    pub fn find(&self, user: &[u8], realm: &[u8]) -> Option<&Arc<Account>> {
        let user = proxy::local_name(user, realm)?;
        self.domain(realm)?.users.get(user)
    }

    /// What is offered in a domain besides what is offered everywhere.
    pub fn also(&self, realm: &[u8]) -> Algorithms {
        self.domain(realm)
            .map_or(Algorithms::NONE, |domain| domain.also)
    }

    fn domain(&self, realm: &[u8]) -> Option<&Domain> {
        match self.domains.get(realm) {
            None if realm.iter().any(u8::is_ascii_uppercase) => {
                self.domains.get(realm.to_ascii_lowercase().as_slice())
            }
            found => found,
        }
    }
}

/// What is offered to everybody.
pub(crate) fn offered(config: &Config) -> Algorithms {
    let algorithms = config.authentication.algorithms.iter();
    algorithms
        .map(|algorithm| match algorithm {
            DigestAlgorithm::Md5 => Algorithm::Md5,
            DigestAlgorithm::Sha256 => Algorithm::Sha256,
            DigestAlgorithm::Sha512_256 => Algorithm::Sha512_256,
        })
        .collect()
}

fn configured(user: &User) -> Account {
    let (name, domain) = (user.name.as_bytes(), user.domain.as_bytes());
    let short = |algorithm, bytes: &[u8]| {
        let ha1 = Ha1::from_bytes(algorithm, bytes);
        match algorithm {
            Algorithm::Md5 => Ha1s {
                md5: ha1,
                ..Ha1s::default()
            },
            Algorithm::Sha256 => Ha1s {
                sha256: ha1,
                ..Ha1s::default()
            },
            Algorithm::Sha512_256 => Ha1s {
                sha512_256: ha1,
                ..Ha1s::default()
            },
        }
    };
    let only = |short| Account {
        short,
        ..Account::default()
    };
    let account = match &user.secret {
        Secret::Password(password) => Account::of_password(name, domain, password.as_bytes()),
        Secret::Ha1(bytes) => only(short(Algorithm::Md5, bytes)),
        Secret::Ha1Sha256(bytes) => only(short(Algorithm::Sha256, bytes)),
        Secret::Ha1Sha512_256(bytes) => only(short(Algorithm::Sha512_256, bytes)),
    };
    Account {
        identities: identities(&user.identities),
        ..account
    }
}

fn stored(user: &StoredUser) -> Account {
    let StoredSecrets {
        md5,
        sha256,
        sha512_256,
    } = &user.secrets;
    Account {
        short: Ha1s {
            md5: ha1(Algorithm::Md5, md5, |pair| Some(&pair.short)),
            sha256: ha1(Algorithm::Sha256, sha256, |pair| Some(&pair.short)),
            sha512_256: ha1(Algorithm::Sha512_256, sha512_256, |pair| Some(&pair.short)),
        },
        full: Ha1s {
            md5: ha1(Algorithm::Md5, md5, |pair| pair.full.as_ref()),
            sha256: ha1(Algorithm::Sha256, sha256, |pair| pair.full.as_ref()),
            sha512_256: ha1(Algorithm::Sha512_256, sha512_256, |pair| pair.full.as_ref()),
        },
        identities: identities(&user.identities),
    }
}

fn ha1<const N: usize>(
    algorithm: Algorithm,
    pair: &Option<Ha1Pair<[u8; N]>>,
    form: impl Fn(&Ha1Pair<[u8; N]>) -> Option<&[u8; N]>,
) -> Option<Ha1> {
    Ha1::from_bytes(algorithm, form(pair.as_ref()?)?)
}

fn identities(list: &[String]) -> Identities {
    let (all, users): (Vec<_>, Vec<_>) = list.iter().partition(|identity| *identity == "*");
    Identities {
        all: !all.is_empty(),
        users: users
            .into_iter()
            .map(|user| user.clone().into_bytes())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[auth]
algorithms = ["SHA-256", "MD5"]
[[domain]]
name = "a.example"
[[domain]]
name = "b.example"
[[user]]
name = "alice@a.example"
password = "secret"
identities = ["100"]
[[user]]
name = "carol@b.example"
ha1_sha512_256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
"#;

    fn accounts() -> Accounts {
        let (mut config, _) = config::load(FILE, "a.toml").unwrap();
        config.stored = ["alice", "bob"]
            .map(|name| StoredUser {
                name: name.to_owned(),
                domain: "a.example".to_owned(),
                identities: vec!["*".to_owned()],
                secrets: StoredSecrets {
                    md5: Some(Ha1Pair {
                        short: [1; 16],
                        full: None,
                    }),
                    ..StoredSecrets::default()
                },
            })
            .into();
        Accounts::new(&config)
    }

    #[test]
    fn users_are_found_with_and_without_their_domain() {
        let accounts = accounts();
        let alice = accounts.find(b"alice", b"a.example").unwrap();
        assert_eq!(accounts.find(b"alice@A.example", b"A.EXAMPLE"), Some(alice));
        assert_eq!(accounts.find(b"alice", b"b.example"), None);
        assert_eq!(accounts.find(b"alice@b.example", b"a.example"), None);
        assert_eq!(accounts.find(b"Alice", b"a.example"), None);
        // Of two the file's counts.
        let of_file = Account {
            identities: Identities {
                all: false,
                users: vec![b"100".to_vec()],
            },
            ..Account::of_password(b"alice", b"a.example", b"secret")
        };
        assert_eq!(**alice, of_file);
        let bob = accounts.find(b"bob", b"a.example").unwrap();
        assert!(bob.identities.all && bob.full.algorithms().is_empty());
    }

    #[test]
    fn who_could_answer_no_challenge_gets_one_more() {
        let accounts = accounts();
        assert!(accounts.also(b"a.example").is_empty());
        let only: Vec<_> = accounts.also(b"b.example").iter().collect();
        assert_eq!(only, [Algorithm::Sha512_256]);
    }
}
