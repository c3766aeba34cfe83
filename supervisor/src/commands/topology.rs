//! `tandem topology`: the keys that hidden calls are sealed with.

use std::path::Path;
use std::process::ExitCode;

use super::client::Failure;
use super::{FAILED, show};
use crate::cli::{JsonArg, Topology};
use crate::paths;
use crate::seals;

pub(crate) fn topology(control: &Path, state: Option<&Path>, command: &Topology) -> ExitCode {
    let Topology::Rotate { json } = command;
    super::finish(rotate(control, state, *json))
}

fn rotate(control: &Path, state: Option<&Path>, json: JsonArg) -> Result<(), Failure> {
    let fail = |message: String, remedy: &str| Failure {
        code: FAILED,
        message,
        remedy: remedy.to_owned(),
    };
    let state = super::users::state_directory(control, state)?;
    paths::create_state_dir(&state).map_err(|error| {
        fail(
            format!(
                "cannot make the state directory {}: {error}",
                state.display()
            ),
            "name one that you may write with --state DIR or TANDEM_STATE",
        )
    })?;
    let keys = seals::rotate(&state).map_err(|error| fail(error.to_string(), error.remedy()))?;
    let done = format!(
        "added a key to {}, which has {keys} now; `tandem reload` has the server use it",
        state.display()
    );
    match json.json {
        true => show::json(&serde_json::json!({ "done": done })),
        false => show::out(&done),
    }
    Ok(())
}
