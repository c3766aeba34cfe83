//! The file of users that `tandem user` keeps in the state directory.
//!
//! ```text
//! tandem-users 1
//! alice@example.com md5=HA1,HA1 sha-256=HA1,HA1 sha-512-256=HA1,HA1 as=100 as=101
//! ...
//! end COUNT CHECKSUM
//! ```
//!
//! One line for each user, sorted. HA1 = H(`NAME:DOMAIN:PASSWORD`) in hexadecimal (RFC 7616 §3.4.2), the second of a pair with `NAME@DOMAIN` in place of `NAME`, for phones
//! that send their username so; no password is ever in the file, but an HA1 is as good as one for this realm. The checksum is over all lines before: it finds
//! damage, and proves nothing. A file without its last line is torn.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use stdx::hash::{Key, hash128};

use crate::model::{Ha1Pair, StoredUser};
use crate::{ArgumentError, value};

const HEAD: &str = "tandem-users 1";
/// Not secret: see the head.
const CHECKSUM: Key = Key(*b"users of tandem.");
/// Users at most: what fits into one configuration for the workers.
pub const USERS_MAX: usize = 200_000;
/// Further identities of one user at most.
pub const IDENTITIES_MAX: usize = 64;

/// The users by domain and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(pub BTreeMap<(String, String), StoredUser>);

/// Why a file is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    #[error("it does not begin with \"{HEAD}\": it is another file, or of another version")]
    Head,
    #[error("its end is missing")]
    Torn,
    #[error("its checksum is wrong: it was changed or damaged")]
    Checksum,
    #[error("line {0} can't be read")]
    Line(usize),
    #[error("line {0} repeats a user")]
    Twice(usize),
    #[error("there are more than {USERS_MAX} users")]
    TooMany,
}

impl Users {
    /// Reads a whole file.
    pub fn decode(text: &str) -> Result<Self, UsersError> {
        let (first, _) = text.split_once('\n').ok_or(UsersError::Head)?;
        if first != HEAD {
            return Err(UsersError::Head);
        }
        let whole = text.strip_suffix('\n').ok_or(UsersError::Torn)?;
        let at = whole.rfind('\n').ok_or(UsersError::Torn)? + 1;
        let (before, last) = whole.split_at(at);
        let mut end = last.split(' ');
        let (Some("end"), Some(count), Some(sum), None) =
            (end.next(), end.next(), end.next(), end.next())
        else {
            return Err(UsersError::Torn);
        };
        if sum != checksum(before) {
            return Err(UsersError::Checksum);
        }
        let mut users = BTreeMap::new();
        for (number, line) in (2..).zip(before.lines().skip(1)) {
            let user = read_line(line).ok_or(UsersError::Line(number))?;
            let key = (user.domain.clone(), user.name.clone());
            if users.insert(key, user).is_some() {
                return Err(UsersError::Twice(number));
            }
            if users.len() > USERS_MAX {
                return Err(UsersError::TooMany);
            }
        }
        if count != users.len().to_string() {
            return Err(UsersError::Torn);
        }
        Ok(Self(users))
    }

    /// The file.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(64 + 420 * self.0.len());
        text.push_str(HEAD);
        text.push('\n');
        for user in self.0.values() {
            write_line(user, &mut text);
        }
        let sum = checksum(&text);
        let _ = writeln!(text, "end {} {sum}", self.0.len());
        text
    }

    /// What differs in another set of users, in words; `None`: nothing.
    pub fn difference(old: &[StoredUser], new: &[StoredUser]) -> Option<String> {
        if old == new {
            return None;
        }
        let (old, new) = (by_name(old), by_name(new));
        let added = new.keys().filter(|key| !old.contains_key(*key)).count();
        let removed = old.keys().filter(|key| !new.contains_key(*key)).count();
        let changed = new
            .iter()
            .filter(|(key, user)| old.get(*key).is_some_and(|before| before != *user))
            .count();
        Some(format!(
            "users of `tandem user`: {added} added, {changed} changed, {removed} removed, {} now",
            new.len()
        ))
    }
}

fn by_name(list: &[StoredUser]) -> BTreeMap<(&str, &str), &StoredUser> {
    let keyed = list.iter();
    keyed
        .map(|user| ((user.domain.as_str(), user.name.as_str()), user))
        .collect()
}

#[cfg(test)]
fn key(user: &StoredUser) -> (String, String) {
    (user.domain.clone(), user.name.clone())
}

fn checksum(text: &str) -> String {
    format!("{:032x}", hash128(&CHECKSUM, &[text.as_bytes()]))
}

fn write_line(user: &StoredUser, out: &mut String) {
    let _ = write!(out, "{}@{}", user.name, user.domain);
    let secrets = &user.secrets;
    pair(" md5=", &secrets.md5, out);
    pair(" sha-256=", &secrets.sha256, out);
    pair(" sha-512-256=", &secrets.sha512_256, out);
    for identity in &user.identities {
        let _ = write!(out, " as={identity}");
    }
    out.push('\n');
}

fn pair<const N: usize>(name: &str, pair: &Option<Ha1Pair<[u8; N]>>, out: &mut String) {
    let Some(pair) = pair else { return };
    out.push_str(name);
    hex(&pair.short, out);
    if let Some(full) = &pair.full {
        out.push(',');
        hex(full, out);
    }
}

fn hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

fn read_line(line: &str) -> Option<StoredUser> {
    let mut parts = line.split(' ');
    let (name, domain) = value::account(parts.next()?).ok()?;
    let mut user = StoredUser {
        name,
        domain,
        identities: Vec::new(),
        secrets: Default::default(),
    };
    for part in parts {
        let (name, text) = part.split_once('=')?;
        match name {
            "md5" => user.secrets.md5 = Some(read_pair(text)?),
            "sha-256" => user.secrets.sha256 = Some(read_pair(text)?),
            "sha-512-256" => user.secrets.sha512_256 = Some(read_pair(text)?),
            "as" if user.identities.len() < IDENTITIES_MAX => {
                user.identities.push(value::identity(text).ok()?)
            }
            _ => return None,
        }
    }
    let some = user.secrets != Default::default();
    some.then_some(user)
}

fn read_pair<const N: usize>(text: &str) -> Option<Ha1Pair<[u8; N]>> {
    let (short, full) = match text.split_once(',') {
        Some((short, full)) => (short, Some(full)),
        None => (text, None),
    };
    Some(Ha1Pair {
        short: value::hex(short).ok()?,
        full: match full {
            Some(full) => Some(value::hex(full).ok()?),
            None => None,
        },
    })
}

/// Reads `NAME@DOMAIN`, as for `tandem user`.
pub fn parse_account(argument: &str) -> Result<(String, String), ArgumentError> {
    value::account(argument).map_err(|wrong| ArgumentError::new(argument, wrong))
}

/// Reads a further identity: a user part, or `*`.
pub fn parse_identity(argument: &str) -> Result<String, ArgumentError> {
    value::identity(argument).map_err(|wrong| ArgumentError::new(argument, wrong))
}

/// Reads an HA1 of `N` bytes in hexadecimal.
pub fn parse_ha1<const N: usize>(argument: &str) -> Result<[u8; N], ArgumentError> {
    // What was given is a secret, and the message may be logged.
    value::hex(argument).map_err(|wrong| ArgumentError::new("the HA1", wrong))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StoredSecrets;

    fn user(name: &str, identities: &[&str]) -> StoredUser {
        StoredUser {
            name: name.to_owned(),
            domain: "a.example".to_owned(),
            identities: identities.iter().map(|&text| text.to_owned()).collect(),
            secrets: StoredSecrets {
                md5: Some(Ha1Pair {
                    short: [1; 16],
                    full: Some([2; 16]),
                }),
                sha256: Some(Ha1Pair {
                    short: [0xab; 32],
                    full: None,
                }),
                sha512_256: None,
            },
        }
    }

    fn users(list: &[StoredUser]) -> Users {
        Users(list.iter().map(|user| (key(user), user.clone())).collect())
    }

    #[test]
    fn what_is_written_is_read() {
        for list in [
            vec![],
            vec![user("alice", &[])],
            vec![user("bob", &["100", "*"]), user("a=l,ice/x", &["+49"])],
        ] {
            let users = users(&list);
            let text = users.encode();
            assert_eq!(Users::decode(&text), Ok(users));
        }
        let text = users(&[user("alice", &["100"])]).encode();
        assert_eq!(
            text.lines().nth(1).unwrap(),
            format!(
                "alice@a.example md5={},{} sha-256={} as=100",
                "01".repeat(16),
                "02".repeat(16),
                "ab".repeat(32)
            )
        );
        assert!(!format!("{:?}", user("alice", &[])).contains("171"));
    }

    #[test]
    fn torn_changed_and_foreign_files_are_told() {
        let text = users(&[user("alice", &[]), user("bob", &[])]).encode();
        for end in 0..text.len() {
            assert!(Users::decode(&text[..end]).is_err(), "{end}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(touched) = String::from_utf8(bytes) {
                assert!(Users::decode(&touched).is_err(), "{at}");
            }
        }
        assert_eq!(Users::decode("x\n"), Err(UsersError::Head));
        assert_eq!(
            Users::decode("tandem-users 2\nend 0 x\n"),
            Err(UsersError::Head)
        );
        let sealed = |body: &str, count: usize| {
            let body = format!("{HEAD}\n{body}");
            format!("{body}end {count} {}\n", checksum(&body))
        };
        assert_eq!(
            Users::decode(&sealed("alice@a.example\n", 1)),
            Err(UsersError::Line(2))
        );
        let line = format!("alice@a.example md5={}\n", "00".repeat(16));
        assert!(Users::decode(&sealed(&line, 1)).is_ok());
        assert_eq!(
            Users::decode(&sealed(&line.repeat(2), 2)),
            Err(UsersError::Twice(3))
        );
        assert_eq!(Users::decode(&sealed(&line, 2)), Err(UsersError::Torn));
        for wrong in ["md5=00", "sha1=00", "as=", "as=a@b", "x"] {
            let line = line.replace('\n', &format!(" {wrong}\n"));
            assert_eq!(
                Users::decode(&sealed(&line, 1)),
                Err(UsersError::Line(2)),
                "{wrong}"
            );
        }
    }

    #[test]
    fn differences_are_counted() {
        let (alice, bob) = (user("alice", &[]), user("bob", &[]));
        let other = user("bob", &["1"]);
        assert_eq!(Users::difference(&[], &[]), None);
        assert_eq!(
            Users::difference(&[alice, bob], &[other, user("carol", &[])]).unwrap(),
            "users of `tandem user`: 1 added, 1 changed, 1 removed, 2 now"
        );
    }
}
