//! What `tandem route test` asks, and the answer: where a request would go, and why.

use serde::{Deserialize, Serialize};

/// A request that is not sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTest {
    pub method: String,
    /// Request-URI.
    pub uri: String,
    /// URI of From.
    pub from: Option<String>,
    /// Address that it comes from.
    pub source: std::net::IpAddr,
    /// When it comes; `None`: now. Unit: s since 1970.
    pub unix: Option<u64>,
}

/// Where it would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteReport {
    /// What was decided by what, in this order.
    pub steps: Vec<RouteStep>,
    /// `location`, `targets`, `dns` or `reject`.
    pub decision: String,
    /// Of a refusal.
    pub code: Option<u16>,
    /// The Request-URI that it goes on with.
    pub uri: Option<String>,
    /// Groups whose destinations are tried, in this order.
    pub groups: Vec<String>,
    /// It comes from a network that the route trusts: nobody is asked for a password for it.
    pub trusted: bool,
}

/// One step of the way there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStep {
    /// `caller`, `route`, `table`, `rule`, `group` or `fallback`.
    pub step: String,
    /// What it is called: of a route its number in the file, from 1.
    pub name: String,
    /// Whether it counts.
    pub taken: bool,
    pub why: String,
    /// Of a rule: digits of the number that it has for a prefix.
    pub prefix: Option<String>,
    /// Of a rule: line of its file.
    pub line: Option<u32>,
}
