//! A user who can prove who he is.

use auth::{Algorithm, Ha1, Ha1s};

/// What proves a user (RFC 7616 §3.4.2), and who he may say that he is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// For clients that give the user's name alone as `username`.
    pub short: Ha1s,
    /// For those that give it with its domain.
    pub full: Ha1s,
    /// Whose name he may use besides his own.
    pub identities: Identities,
}

/// Names besides one's own: to register (§10.3 step 4), and to call by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// Every user of the domain.
    pub all: bool,
    /// User parts, without escapes.
    pub users: Vec<Vec<u8>>,
}

impl Identities {
    pub fn has(&self, user: &[u8]) -> bool {
        self.all || self.users.iter().any(|known| known == user)
    }
}

impl Account {
    /// Every secret that follows from a password.
    pub fn of_password(name: &[u8], realm: &[u8], password: &[u8]) -> Self {
        let full = [name, b"@", realm].concat();
        Self {
            short: Ha1s::of_password(name, realm, password),
            full: Ha1s::of_password(&full, realm, password),
            identities: Identities::default(),
        }
    }

    /// The secret for a `username` as it came.
    pub(crate) fn secret(&self, username: &[u8], algorithm: Algorithm) -> Option<&Ha1> {
        let form = match username.contains(&b'@') {
            true => &self.full,
            false => &self.short,
        };
        form.get(algorithm)
    }
}
