//! Groups of destinations: each policy against its definition, limits, deaths of destinations and workers, names, commands.

mod commands;
mod deaths;
mod limits;
mod names;
mod policies;
mod site;

use blackbox::server::{DEFAULT, Server};
use site::Site;

/// A server whose calls all go to one group. `group` is what stands in it beside its name and its destinations; the destinations are written by their numbers:
/// `{0}` is the URI of the first site.
fn server(sites: &[Site], group: &str) -> Server {
    Server::start_with(&config(sites, group))
}

fn config(sites: &[Site], group: &str) -> String {
    let mut group = group.to_owned();
    for (number, site) in sites.iter().enumerate() {
        group = group.replace(&format!("{{{number}}}"), &site.uri());
    }
    format!("{DEFAULT}\n[[group]]\nname = \"g\"\n{group}\n[[route]]\nto = \"group:g\"\n")
}

/// How many calls each has got.
fn got(sites: &[Site]) -> Vec<usize> {
    sites.iter().map(Site::invited).collect()
}
