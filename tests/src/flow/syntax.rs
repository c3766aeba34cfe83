//! What a flow's file says, before anything is played.

use std::time::Duration;

/// One file.
#[derive(Clone, Debug)]
pub struct Flow {
    /// As it is named in errors: below `tests/flows`.
    pub name: String,
    /// The first line, without its `#`.
    pub title: String,
    pub proxies: Vec<Proxy>,
    pub parties: Vec<Party>,
    /// Where alone it can be played, and why.
    pub only: Option<(Stages, String)>,
    /// With which hiding alone, and why.
    pub only_passes: Option<(Vec<Pass>, String)>,
    /// It says itself where hiding is on, and what each side sees then.
    pub is_about_hiding: bool,
    /// Headers that it has configured to be shown.
    pub shown: Vec<String>,
    pub steps: Vec<Step>,
}

/// What can play flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Processes and sockets.
    Real,
    /// Simulated time.
    Simulated,
}

/// How the topology is hidden meanwhile (see [`super::hidden`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Not at all.
    Plain,
    /// `topology_hiding = "dialog"`
    Dialog,
    /// `topology_hiding = "stateless"`
    Stateless,
}

impl Pass {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Dialog, Self::Stateless];
}

/// `proxy NAME`: a server of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub line: usize,
    pub name: String,
    /// TOML; what every configuration needs and it does not say is added.
    pub config: String,
    /// Failpoints: `POINT=KIND...`, each from a line `dies at`.
    pub failpoints: Vec<String>,
}

/// `party NAME [AOR]`: a phone, or whatever else is out there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    pub line: usize,
    pub name: String,
    pub aor: String,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub line: usize,
    /// The line as it stands there.
    pub text: String,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Arrow(Arrow),
    /// `wait 32s`
    Wait(Duration),
    /// `nothing [to PARTY] for 32s`; what was there before is allowed.
    Nothing {
        to: Option<String>,
        duration: Duration,
    },
    /// `kill slot 0 of PROXY`, `kill every worker of PROXY`
    Kill {
        proxy: String,
        slot: Option<u64>,
    },
    /// `PROXY forgets everything`: the power goes, and all files but the secret key with it.
    Forget {
        proxy: String,
    },
    /// `F2 came 7 times`, `F2 came 6 to 7 times`
    Came {
        label: String,
        least: u32,
        most: u32,
    },
    /// `PROXY has 0 transactions`
    Has {
        proxy: String,
        number: u64,
        of: String,
    },
    /// `run PROXY restart --all`
    Run {
        proxy: String,
        arguments: Vec<String>,
    },
    /// `any order`
    AnyOrder(Vec<Step>),
    /// `either` ... `or` ...
    Either(Vec<Vec<Step>>),
}

/// `[LABEL] [within 3s] FROM -> TO MESSAGE`
#[derive(Clone, Debug)]
pub struct Arrow {
    pub label: Option<String>,
    /// For what is expected: from now on. `None`: at once.
    pub within: Option<Duration>,
    pub from: String,
    pub to: String,
    pub message: Start,
    pub details: Vec<Detail>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Request {
        method: String,
        /// Nothing: the rules know it.
        uri: Option<String>,
        /// `for F7`, `in F7`: the message that it is about.
        about: Option<String>,
    },
    Response {
        code: u16,
        reason: Option<String>,
        /// `(CANCEL)`
        method: Option<String>,
        /// `to F5`
        about: Option<String>,
    },
    /// `again F2`: the same bytes once more.
    Again(String),
    /// `forwards F2 [URI]`: as a proxy does.
    Forwards { label: String, uri: Option<String> },
}

#[derive(Clone, Debug)]
pub struct Detail {
    pub line: usize,
    pub what: DetailKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetailKind {
    /// `Name: value`. Sent: it takes the place of what the rules say, nothing takes it away. Expected: a pattern.
    Header(String, String),
    /// `+ Name: value`, in addition.
    Add(String, String),
    /// `no Name`
    No(String),
    /// `as in F1: Name, Name`
    AsIn(String, Vec<String>),
    /// `credentials: USER PASSWORD [realm R] [algorithm A] [nc N]`
    Credentials(Credentials),
    /// `sdp` or `sdp LABEL`: a body of that kind.
    Sdp,
    /// `body TEXT`
    Body(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
    pub realm: Option<String>,
    pub algorithm: Option<String>,
    pub nc: Option<u32>,
    pub qop: Option<String>,
}

/// A fault in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub line: usize,
    pub what: String,
}

impl Fault {
    pub fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}
