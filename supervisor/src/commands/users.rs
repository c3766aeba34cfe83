//! `tandem user`: changes the file of users in the state directory, and has a running server take it.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use auth::{Algorithm, Ha1};
use config::{Ha1Pair, IDENTITIES_MAX, StoredSecrets, StoredUser, USERS_MAX, Users};
use control::{ClientReply, ClientRequest, UsersLine};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde::Serialize;

use super::client::{Answers, Failure};
use super::{FAILED, NO_SERVER, show};
use crate::cli::{Account, SecretArgs, User};
use crate::paths::{self, Environment};
use crate::users;

/// Bytes of a password at most.
const PASSWORD_MAX: usize = 1024;
/// A reload or an upgrade may be under way.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

impl From<users::Error> for Failure {
    fn from(error: users::Error) -> Self {
        fail(error.to_string(), error.remedy())
    }
}

fn fail(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure {
        code: FAILED,
        message: message.into(),
        remedy: remedy.into(),
    }
}

/// A user, as printed.
#[derive(Serialize)]
struct Line {
    name: String,
    /// `stored` or `config`.
    source: &'static str,
    algorithms: Vec<String>,
    identities: Vec<String>,
    /// The configuration file has him as well, and that counts.
    shadowed: bool,
}

pub(crate) fn user(control: &Path, state: Option<&Path>, command: &User) -> ExitCode {
    super::finish(run(control, state, command))
}

fn run(control: &Path, state: Option<&Path>, command: &User) -> Result<(), Failure> {
    let server = match ask(control) {
        Ok(server) => Some(server),
        Err(failure) if failure.code == NO_SERVER => None,
        Err(failure) => return Err(failure),
    };
    let stored = server.as_ref().map(|&(_, stored)| stored);
    let server = server.map(|(line, _)| line);
    let state = state_of(server.as_ref(), state)?;
    let (said, json) = match command {
        User::Add {
            who,
            secret,
            identity,
            json,
        } => {
            let secrets = secrets_of(who, secret)?.ok_or_else(no_secret)?;
            change(&state, stored, |users| {
                if users.0.contains_key(&key(who)) {
                    return Err(fail(
                        format!("{who} is there already"),
                        "`tandem user set` changes him",
                    ));
                }
                put(users, who, secrets, identity.clone())
            })?;
            (format!("{who} added"), json.json)
        }
        User::Set {
            who,
            secret,
            identity,
            no_identities,
            json,
        } => {
            let given = secret.is_given() || (identity.is_empty() && !no_identities);
            let secrets = match given {
                true => Some(secrets_of(who, secret)?.ok_or_else(no_secret)?),
                false => None,
            };
            change(&state, stored, |users| {
                let old = users.0.get(&key(who)).ok_or_else(|| unknown(who))?.clone();
                let identities = match identity.is_empty() && !no_identities {
                    true => old.identities,
                    false => identity.clone(),
                };
                put(users, who, secrets.unwrap_or(old.secrets), identities)
            })?;
            (format!("{who} changed"), json.json)
        }
        User::Remove { who, json } => {
            change(&state, stored, |users| {
                users
                    .0
                    .remove(&key(who))
                    .map(drop)
                    .ok_or_else(|| unknown(who))
            })?;
            (format!("{who} removed"), json.json)
        }
        User::Import { file, json } => {
            let list = read_list(file.as_deref())?;
            let count = list.len();
            change(&state, stored, |users| {
                list.into_iter().try_for_each(|(who, secrets)| {
                    let old = users.0.get(&key(&who));
                    let identities = old.map(|old| old.identities.clone());
                    put(users, &who, secrets, identities.unwrap_or_default())
                })
            })?;
            (
                format!("{} added or changed", show::count(count, "user", "users")),
                json.json,
            )
        }
        User::List { domain, json } => {
            return list(&state, server.as_ref(), domain.as_deref(), json.json);
        }
    };
    let notes = match server {
        Some(_) => tell(control)?,
        None => vec!["no server is running: it takes effect with the next start".to_owned()],
    };
    if json {
        show::json(&serde_json::json!({ "done": said, "notes": notes }));
    } else {
        show::out(&said);
        notes.iter().for_each(|note| show::out(note));
    }
    Ok(())
}

/// What the server says of itself, and how many users of the file it has.
fn ask(control: &Path) -> Result<(UsersLine, u64), Failure> {
    let mut answers = Answers::ask(control, &ClientRequest::Users)?;
    let (mut found, mut stored) = (None, 0);
    while let Some(reply) = answers.next()? {
        match reply {
            ClientReply::Users(line) => found = Some(line),
            ClientReply::StoredUsers(count) => stored = count,
            _ => {}
        }
    }
    let found = found.map(|line| (line, stored));
    found.ok_or_else(|| fail("the server does not say where its users are", ""))
}

/// Has the server take the file; what it says of it.
fn tell(control: &Path) -> Result<Vec<String>, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let told = Answers::ask(control, &ClientRequest::UsersChanged).and_then(|mut answers| {
            let mut notes = Vec::new();
            while let Some(reply) = answers.next()? {
                if let ClientReply::Note(note) = reply {
                    notes.push(note);
                }
            }
            Ok(notes)
        });
        match told {
            Ok(notes) => return Ok(notes),
            Err(_) if tries < TRIES => std::thread::sleep(PAUSE),
            Err(failure) => {
                return Err(Failure {
                    message: format!(
                        "the change is in the file, but the server has not taken it: {}",
                        failure.message
                    ),
                    remedy: "`tandem reload` has it take the file".to_owned(),
                    ..failure
                });
            }
        }
    }
}

/// The state directory of the server, if one runs, else the one that it would take.
pub(super) fn state_directory(control: &Path, given: Option<&Path>) -> Result<PathBuf, Failure> {
    let server = match ask(control) {
        Ok((server, _)) => Some(server),
        Err(failure) if failure.code == NO_SERVER => None,
        Err(failure) => return Err(failure),
    };
    state_of(server.as_ref(), given)
}

/// The server's state directory, which may not be the one that we would take.
fn state_of(server: Option<&UsersLine>, given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(server) = server.filter(|server| !server.state.is_empty()) {
        return Ok(PathBuf::from(&server.state));
    }
    Environment::of_process().state_dir(given).ok_or_else(|| {
        fail(
            "there is no state directory",
            "name one with --state DIR or TANDEM_STATE",
        )
    })
}

/// `stored`: how many users of the file the running server has.
fn change(
    state: &Path,
    stored: Option<u64>,
    edit: impl FnOnce(&mut Users) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if stored.is_some_and(|stored| stored > 0) && users::is_missing(state) {
        return Err(fail(
            format!(
                "the file of users is gone from {}, and the server still has users of it: a new one would take them away",
                state.display()
            ),
            "put the file back, or mount its directory",
        ));
    }
    if stored.is_none() {
        paths::create_state_dir(state).map_err(|error| {
            fail(
                format!(
                    "cannot make the state directory {}: {error}",
                    state.display()
                ),
                "name one that you may write with --state DIR or TANDEM_STATE",
            )
        })?;
    }
    // Else the limit of file sizes would end us without a word.
    let _ = os::outlive_file_size_limit();
    users::edit(state, edit)
}

fn put(
    users: &mut Users,
    who: &Account,
    secrets: StoredSecrets,
    identities: Vec<String>,
) -> Result<(), Failure> {
    if identities.len() > IDENTITIES_MAX {
        return Err(fail(
            format!("a user can have {IDENTITIES_MAX} identities"),
            "give \"*\" for every user of the domain",
        ));
    }
    let user = StoredUser {
        name: who.name.clone(),
        domain: who.domain.clone(),
        identities,
        secrets,
    };
    users.0.insert(key(who), user);
    if users.0.len() > USERS_MAX {
        return Err(fail(format!("there can be {USERS_MAX} users"), ""));
    }
    Ok(())
}

fn key(who: &Account) -> (String, String) {
    (who.domain.clone(), who.name.clone())
}

fn unknown(who: &Account) -> Failure {
    fail(
        format!("there is no user {who} here"),
        "`tandem user list` shows all; a [[user]] is changed in the configuration file",
    )
}

fn no_secret() -> Failure {
    fail(
        "there is no password",
        "give --password, or the password as a line on standard input",
    )
}

/// What is given, else from a password on standard input; `None`: that is empty.
fn secrets_of(who: &Account, given: &SecretArgs) -> Result<Option<StoredSecrets>, Failure> {
    let stored = StoredSecrets {
        md5: given.ha1.map(|short| Ha1Pair { short, full: None }),
        sha256: given.ha1_sha256.map(|short| Ha1Pair { short, full: None }),
        sha512_256: given
            .ha1_sha512_256
            .map(|short| Ha1Pair { short, full: None }),
    };
    if stored != StoredSecrets::default() {
        return Ok(Some(stored));
    }
    let password = match &given.password {
        Some(password) => password.clone(),
        None => read_password(who).map_err(|error| {
            fail(
                format!("no password could be read: {error}"),
                "give --password",
            )
        })?,
    };
    check_password(&password)?;
    Ok((!password.is_empty()).then(|| derive(who, &password)))
}

fn check_password(password: &str) -> Result<(), Failure> {
    if password.len() > PASSWORD_MAX || password.chars().any(char::is_control) {
        return Err(fail(
            format!("a password has {PASSWORD_MAX} bytes at most, and no control characters"),
            "choose another",
        ));
    }
    Ok(())
}

/// Everything that a phone may prove itself by. Of the password nothing else is kept.
fn derive(who: &Account, password: &str) -> StoredSecrets {
    fn pair<const N: usize>(
        algorithm: Algorithm,
        who: &Account,
        password: &str,
    ) -> Option<Ha1Pair<[u8; N]>> {
        let bytes = |ha1: Ha1| ha1.as_bytes().try_into().ok();
        let ha1 = |name: &str| {
            auth::ha1(
                algorithm,
                name.as_bytes(),
                who.domain.as_bytes(),
                password.as_bytes(),
            )
        };
        Some(Ha1Pair {
            short: bytes(ha1(&who.name))?,
            full: bytes(ha1(&who.to_string())),
        })
    }
    StoredSecrets {
        md5: pair(Algorithm::Md5, who, password),
        sha256: pair(Algorithm::Sha256, who, password),
        sha512_256: pair(Algorithm::Sha512_256, who, password),
    }
}

/// One line of standard input; from a terminal without showing it, twice.
fn read_password(who: &Account) -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return read_line();
    }
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden)?;
    let asked = (|| {
        let first = prompt(&format!("Password of {who}: "))?;
        let second = prompt("Once more: ")?;
        match first == second {
            true => Ok(first),
            false => Err(io::Error::other("they are not the same")),
        }
    })();
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &shown)?;
    asked
}

fn prompt(text: &str) -> io::Result<String> {
    eprint!("{text}");
    io::stderr().flush()?;
    let line = read_line();
    eprintln!();
    line
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    let most = PASSWORD_MAX as u64 + 2;
    io::stdin().lock().take(most).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Lines of `NAME@DOMAIN PASSWORD`.
fn read_list(file: Option<&Path>) -> Result<Vec<(Account, StoredSecrets)>, Failure> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file),
        None => io::read_to_string(io::stdin()),
    };
    let text = text.map_err(|error| fail(format!("the users can't be read: {error}"), ""))?;
    let wrong = |number: usize, what: &str| {
        fail(
            format!("line {number}: {what}; nothing was changed"),
            "write NAME@DOMAIN, a space, and the password",
        )
    };
    // A mark of the byte order is no part of the first name.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut list: Vec<(Account, StoredSecrets)> = Vec::new();
    let mut lines: BTreeMap<(String, String), (usize, &str)> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (who, password) = line
            .split_once([' ', '\t'])
            .filter(|(_, password)| !password.is_empty())
            .ok_or_else(|| wrong(number, "there is no password"))?;
        let who: Account = who.parse().map_err(|error: String| wrong(number, &error))?;
        check_password(password).map_err(|failure| wrong(number, &failure.message))?;
        match lines.get(&key(&who)) {
            Some((_, same)) if *same == password => continue,
            Some((first, _)) => {
                return Err(wrong(
                    number,
                    &format!("{who} has another password in line {first}"),
                ));
            }
            None => {}
        }
        lines.insert(key(&who), (number, password));
        let secrets = derive(&who, password);
        list.push((who, secrets));
    }
    Ok(list)
}

fn list(
    state: &Path,
    server: Option<&UsersLine>,
    domain: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let configured = server.map_or(&[][..], |server| &server.configured);
    let mut lines: Vec<Line> = configured
        .iter()
        .map(|user| Line {
            name: user.name.clone(),
            source: "config",
            algorithms: user.algorithms.clone(),
            identities: user.identities.clone(),
            shadowed: false,
        })
        .collect();
    let of_file: std::collections::BTreeSet<String> =
        lines.iter().map(|line| line.name.clone()).collect();
    lines.extend(users::load(state)?.0.into_values().map(|user| {
        let name = format!("{}@{}", user.name, user.domain);
        Line {
            shadowed: of_file.contains(&name),
            name,
            source: "stored",
            algorithms: user
                .secrets
                .algorithms()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            identities: user.identities,
        }
    }));
    let is_wanted = |line: &Line| {
        let of = line.name.rsplit('@').next().unwrap_or_default();
        domain.is_none_or(|domain| of.eq_ignore_ascii_case(domain))
    };
    lines.retain(is_wanted);
    if json {
        show::json(&lines);
        return Ok(());
    }
    let count = lines.len();
    let rows = lines.into_iter().map(|line| {
        vec![
            line.name,
            match line.shadowed {
                true => "stored, but the file's counts".to_owned(),
                false => line.source.to_owned(),
            },
            line.algorithms.join(" "),
            line.identities.join(" "),
        ]
    });
    show::table(&["USER", "FROM", "ALGORITHMS", "ALSO AS"], rows.collect());
    show::out(&format!("\n{}", show::count(count, "user", "users")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_the_ha1_of_rfc_2617() {
        let who = Account {
            name: "Mufasa".to_owned(),
            domain: "testrealm@host.com".to_owned(),
        };
        let secrets = derive(&who, "Circle Of Life");
        let expected = config::parse_ha1::<16>("939e7578ed9e3c518a452acee763bce9").unwrap();
        assert_eq!(secrets.md5.unwrap().short, expected);
        assert_ne!(secrets.md5.unwrap().full, Some(expected));
        assert_eq!(secrets.algorithms().len(), 3);
    }

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("list");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read_list(Some(&file))
                .map(|list| list.len())
                .map_err(|failure| failure.message)
        };
        assert_eq!(read("# mine\n\na@b.example x y\nc@b.example\tz\n"), Ok(2));
        assert!(
            read("a@b.example x\nc@b.example\n")
                .unwrap_err()
                .starts_with("line 2")
        );
        assert!(read("a x\n").unwrap_err().starts_with("line 1"));
        // Two lines of one user are one user, if they say the same.
        assert_eq!(read("a@b.example x\r\na@B.example x\r\n"), Ok(1));
        let twice = read("a@b.example x\nc@b.example x\na@b.example y\n").unwrap_err();
        assert!(
            twice.starts_with("line 3: a@b.example has another password in line 1"),
            "{twice}"
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("list");
        for (text, count) in [("\u{feff}a@b.example x\n", 1), ("\u{feff}# none\n", 0)] {
            std::fs::write(&file, text).unwrap();
            let list = read_list(Some(&file)).map_err(|failure| failure.message);
            let list = list.unwrap();
            assert_eq!(list.len(), count);
            assert!(list.iter().all(|(who, _)| who.name == "a"));
        }
    }
}
