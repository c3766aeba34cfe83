//! `tandem stats`.

use std::path::Path;
use std::process::ExitCode;

use control::{ClientReply, ClientRequest};

use super::client::Answers;
use super::show;
use crate::cli::StatsArgs;

pub(crate) fn stats(control: &Path, args: &StatsArgs) -> ExitCode {
    let request = ClientRequest::Stats {
        pattern: args.pattern.clone(),
    };
    super::finish(Answers::ask(control, &request).and_then(|mut answers| {
        let mut lines = Vec::new();
        while let Some(reply) = answers.next()? {
            if let ClientReply::Stats(more) = reply {
                lines.extend(more);
            }
        }
        if args.json.json {
            show::json(&lines);
        } else if lines.is_empty() {
            show::out("no counter has such a name");
        } else {
            let rows = lines
                .into_iter()
                .map(|line| vec![line.name, line.value.to_string(), line.description]);
            show::table(&["COUNTER", "VALUE>", "DESCRIPTION"], rows.collect());
        }
        Ok(())
    }))
}
