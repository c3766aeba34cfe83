//! The command line. A command appears here with the issue that builds it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// SIP proxy, registrar and load balancer whose calls outlive its workers.
///
/// Without a command: `tandem run`, which needs no configuration and serves 127.0.0.1:5060.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) places: Places,

    /// What to log: a level (error, warn, info, debug, trace) or filters such as `info,worker=debug`
    /// [default: RUST_LOG, else info]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the command failed, or `check` found an error; the reason is on standard error
  2  the command line is wrong
  3  no server answers on the control socket
  4  the server can't start: configuration, port, permission, memory or kernel; reason and remedy are on standard error";

#[derive(Debug, Args)]
pub(crate) struct Places {
    /// Control socket [default: $XDG_RUNTIME_DIR/tandem.sock, else /run/tandem.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "TANDEM_CONTROL",
        hide_env_values = true
    )]
    pub(crate) control: Option<PathBuf>,

    /// State directory [default: $XDG_STATE_HOME/tandem, else ~/.local/state/tandem; as root /var/lib/tandem]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "TANDEM_STATE",
        hide_env_values = true
    )]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server in the foreground
    Run(RunArgs),
    /// Check a configuration file: every error and warning with its place and a remedy
    Check(CheckArgs),
    /// Processes, slots, listeners, memory, registrations
    Status(JsonArg),
    /// Every counter with its description
    Stats(StatsArgs),
    /// Who is registered where
    #[command(subcommand)]
    Registrations(Registrations),
    /// Calls on record: who talks to whom, since when; ending them
    #[command(subcommand)]
    Calls(Calls),
    /// Destinations of groups: their calls and health, and what is wanted of them
    #[command(subcommand)]
    Destinations(Destinations),
    /// Who may register and call: users besides those of the configuration file
    #[command(subcommand)]
    User(User),
    /// Where calls would go, and why
    #[command(subcommand)]
    Route(Route),
    /// Keys that hidden calls are sealed with
    #[command(subcommand)]
    Topology(Topology),
    /// Messages that workers died of
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// Check every invariant of the shared memory (walks all of it; exit code 1 if one is broken)
    Audit(JsonArg),
    /// Rolling restart of workers; no call is lost
    Restart(RestartArgs),
    /// Read the configuration file again (as SIGHUP does) and apply what can change while calls run
    Reload,
    /// Move the running server to another program: its workers, then itself; no call is lost
    Upgrade(UpgradeArgs),
    /// Stop the server
    Stop,
    /// What this program can work with; for the supervisor that is asked to run it
    #[command(hide = true)]
    About {
        #[command(flatten)]
        json: JsonArg,
        /// Numbers of the arena: LIMIT:SLOTS:AUX
        #[arg(long)]
        layout: Option<crate::about::ArenaNumbers>,
    },
    /// A worker process; the supervisor starts it with its control channel as descriptor 3
    #[command(hide = true)]
    Worker,
    /// A process for one task over the arena; the supervisor starts it with its control channel as descriptor 3
    #[command(hide = true)]
    Helper,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct RunArgs {
    /// Configuration file; without one an embedded default serves 127.0.0.1:5060
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Listen here instead of where the configuration says; may be given several times
    #[arg(long, value_name = "udp:HOST:PORT", value_parser = config::parse_listen)]
    pub(crate) listen: Vec<SocketAddr>,

    /// Worker processes [default: `workers.count`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(config::WORKERS_MAX)))]
    pub(crate) workers: Option<u16>,

    /// Reactor threads in each worker [default: `workers.reactors`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(config::SLOTS_MAX)))]
    pub(crate) reactors: Option<u16>,

    /// Cores for the reactors, in order: `0,2,4-7`, `auto` or `none` [default: `workers.pin`]
    #[arg(long, value_name = "LIST", value_parser = config::parse_pin)]
    pub(crate) pin: Option<config::Pin>,

    /// Go on in the place of another program; the descriptor of what it left
    #[arg(long, hide = true, value_name = "FD")]
    pub(crate) succession: Option<i32>,
}

/// The argument of the same name.
pub(crate) const SUCCESSION: &str = "--succession";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct JsonArg {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only counters whose name contains this
    pub(crate) pattern: Option<String>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// `NAME@DOMAIN`, the domain in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) domain: String,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.domain)
    }
}

impl std::str::FromStr for Account {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, domain) = config::parse_account(text).map_err(|error| error.to_string())?;
        Ok(Self { name, domain })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topology {
    /// Add a key, with which everything is sealed after the next `tandem reload`; older ones go on reading
    Rotate {
        #[command(flatten)]
        json: JsonArg,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Add a user; without a secret here the password is read from standard input
    Add {
        /// For example alice@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        who: Account,
        #[command(flatten)]
        secret: SecretArgs,
        /// Another user of the domain that this one may register and call as, or `*`; may be given several times
        #[arg(long = "as", value_name = "USER", value_parser = config::parse_identity)]
        identity: Vec<String>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change the secret of a user, or what he may register and call as
    Set {
        /// For example alice@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        who: Account,
        #[command(flatten)]
        secret: SecretArgs,
        /// As of `add`, in place of all that there were
        #[arg(long = "as", value_name = "USER", value_parser = config::parse_identity)]
        identity: Vec<String>,
        /// He may register and call as himself only
        #[arg(long, conflicts_with = "identity")]
        no_identities: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove a user; what he has registered stays until it expires
    Remove {
        /// For example alice@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        who: Account,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Add or change many users at once
    Import {
        /// Lines of NAME@DOMAIN, a space, PASSWORD; without one standard input
        file: Option<PathBuf>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Every user, and what each can prove himself with
    List {
        /// Only this domain
        #[arg(long)]
        domain: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// What a user proves himself with. Only what follows from the password is kept.
#[derive(Clone, Args)]
pub(crate) struct SecretArgs {
    /// Password; others of this machine may see it in the list of processes
    #[arg(long, conflicts_with_all = ["ha1", "ha1_sha256", "ha1_sha512_256"])]
    pub(crate) password: Option<String>,
    /// MD5 of NAME:DOMAIN:PASSWORD, in place of a password
    #[arg(long, value_name = "HEX", value_parser = config::parse_ha1::<16>)]
    pub(crate) ha1: Option<[u8; 16]>,
    /// SHA-256 of NAME:DOMAIN:PASSWORD
    #[arg(long, value_name = "HEX", value_parser = config::parse_ha1::<32>)]
    pub(crate) ha1_sha256: Option<[u8; 32]>,
    /// SHA-512-256 of NAME:DOMAIN:PASSWORD
    #[arg(long, value_name = "HEX", value_parser = config::parse_ha1::<32>)]
    pub(crate) ha1_sha512_256: Option<[u8; 32]>,
}

impl SecretArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.password.is_some()
            || self.ha1.is_some()
            || self.ha1_sha256.is_some()
            || self.ha1_sha512_256.is_some()
    }
}

/// Secrets stay out of logs.
impl std::fmt::Debug for SecretArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretArgs(..)")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// Every message that a worker died of: dropped after the second death
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// One of them, with its text
    Show {
        /// As `list` names it
        id: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Forget one of them, or all: they are served again
    Clear {
        /// As `list` names it
        id: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Calls {
    /// Calls on record, the oldest first
    List {
        #[command(flatten)]
        filter: CallFilterArgs,
        /// At most so many calls
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// All that is known of one call
    Show {
        /// Its id, as `list` shows it, or its Call-ID
        id: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Calls on record, then whatever happens to calls: begun, answered, ended
    Follow {
        /// End after so many lines
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// End calls: both parties get a BYE, one that rings is given up
    End {
        /// The id of one call, as `list` shows it, or its Call-ID
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<String>,
        /// Every call that the filters let through
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        filter: CallFilterArgs,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CallFilterArgs {
    /// Calls of this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Whose caller's or callee's URI, or Request-URI, contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) party: Option<String>,
    /// In this state
    #[arg(long, value_parser = ["early", "confirmed", "ending"])]
    pub(crate) phase: Option<String>,
    /// At a destination whose group or URI contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) destination: Option<String>,
    /// One of whose parties is at this IP address
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<std::net::IpAddr>,
    /// That began so long ago at least, as 90s or 2h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) longer_than: Option<std::time::Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Destinations {
    /// Every destination
    List {
        /// Only this group
        #[arg(long)]
        group: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Give it requests again
    Enable(DestinationArgs),
    /// Send it nothing, not even probes; its calls go on
    Disable(DestinationArgs),
    /// Give it nothing new; its calls go on until they end
    Drain(DestinationArgs),
    /// Another weight than the configured one, until the server ends or this is taken back
    Weight {
        #[command(flatten)]
        to: DestinationArgs,
        /// 1 to 1000, or `default`: the configured one
        #[arg(value_parser = weight)]
        weight: u32,
    },
}

/// A destination.
#[derive(Debug, Args)]
pub(crate) struct DestinationArgs {
    /// Its group
    pub(crate) group: String,
    /// Its URI, as `list` shows it; that of a name changes all addresses of the name
    pub(crate) uri: String,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// A weight; 0 is the configured one.
fn weight(text: &str) -> Result<u32, String> {
    match text.parse() {
        _ if text == "default" => Ok(0),
        Ok(weight @ 1..=1000) => Ok(weight),
        _ => Err("write a number from 1 to 1000, or default".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Registrations {
    /// Every registered address-of-record
    List {
        /// Only this domain
        #[arg(long)]
        domain: Option<String>,
        /// At most so many addresses-of-record
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// The bindings of one address-of-record
    Show {
        /// For example sip:alice@example.com
        aor: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove the bindings of one address-of-record
    Remove {
        /// For example sip:alice@example.com
        aor: String,
        /// Only the binding with this Contact URI
        #[arg(long, value_name = "URI")]
        contact: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// Tell step by step where a request would go; nothing is sent
    Test(RouteTestArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RouteTestArgs {
    /// Whom it is for: a URI, or a number, which is then one of the first domain
    #[arg(value_name = "URI")]
    pub(crate) to: String,
    /// Who calls: the URI of From
    #[arg(long, value_name = "URI")]
    pub(crate) from: Option<String>,
    /// Address that it comes from
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) source: std::net::IpAddr,
    /// Method
    #[arg(long, value_name = "METHOD", default_value = "INVITE")]
    pub(crate) method: String,
    /// When it comes, in UTC: 2026-12-24T18:30:00 [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) at: Option<u64>,
    /// Use this configuration, with the files that it names, instead of asking the server
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// Seconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    let moment = humantime::parse_rfc3339_weak(text).map_err(|error| error.to_string())?;
    let since = moment.duration_since(std::time::UNIX_EPOCH);
    since
        .map(|since| since.as_secs())
        .map_err(|_| "is before 1970".to_owned())
}

#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub(crate) struct RestartArgs {
    /// Only this worker, by its number in `tandem status`
    #[arg(long, value_name = "N")]
    pub(crate) worker: Option<u16>,
    /// Every worker, one after the other; the default
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// The new `tandem` program
    #[arg(value_name = "BINARY")]
    pub(crate) binary: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn no_arguments_is_run() {
        let cli = parse("tandem").unwrap();
        assert!(cli.command.is_none());
        assert!(parse("tandem --control x").unwrap().command.is_none());
    }

    #[test]
    fn run_takes_all_its_arguments() {
        let line = "tandem run -c a.toml --listen udp:127.0.0.1:0 --listen udp:[::1]:5060 --workers 2 --reactors 3 --pin 0,2-4 --state s --control c";
        let cli = parse(line).unwrap();
        let Some(Command::Run(run)) = cli.command else {
            panic!("run")
        };
        assert_eq!(
            run.listen,
            [
                "127.0.0.1:0".parse().unwrap(),
                "[::1]:5060".parse::<SocketAddr>().unwrap()
            ]
        );
        assert_eq!((run.workers, run.reactors), (Some(2), Some(3)));
        assert_eq!(run.pin, Some(config::Pin::List(vec![0, 2, 3, 4])));
        assert_eq!(cli.places.control, Some(PathBuf::from("c")));
        assert_eq!(cli.places.state, Some(PathBuf::from("s")));
    }

    #[test]
    fn every_command_of_the_contract_is_there() {
        for line in [
            "tandem check -c a.toml",
            "tandem check --config a.toml --json",
            "tandem status --json --control /x",
            "tandem --control /x status",
            "tandem stats",
            "tandem stats invite --json",
            "tandem registrations list --json",
            "tandem registrations show sip:a@b",
            "tandem registrations remove sip:a@b --contact sip:a@1.2.3.4",
            "tandem user add alice@a.example",
            "tandem user add alice@a.example --password x --as 100 --as * --json",
            "tandem user add alice@a.example --ha1 00112233445566778899aabbccddeeff",
            "tandem user set alice@a.example --no-identities",
            "tandem user remove alice@a.example --json",
            "tandem user import list.txt",
            "tandem user list --domain a.example --json",
            "tandem audit --json",
            "tandem quarantine list --json",
            "tandem quarantine show 00ff",
            "tandem quarantine clear",
            "tandem quarantine clear 00ff --json",
            "tandem route test 4930123",
            "tandem route test sip:1@a.example --from sip:2@a.example --source 192.0.2.1 --method MESSAGE --at 2026-12-24T18:30:00 --json",
            "tandem route test 1 -c a.toml",
            "tandem restart",
            "tandem restart --all",
            "tandem restart --worker 1",
            "tandem reload",
            "tandem stop",
            "tandem upgrade ./tandem",
            "tandem about --json --layout 67108864:2:4",
            "tandem --log debug worker",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "tandem restart --all --worker 1",
            "tandem run --listen tcp:127.0.0.1:5060",
            "tandem run --listen 127.0.0.1",
            "tandem run --listen udp:example.com:5060",
            "tandem run --workers 0",
            "tandem run --pin 4-2",
            "tandem run --pin x",
            "tandem check",
            "tandem registrations",
            "tandem user add alice",
            "tandem user add sip:alice@a.example",
            "tandem user add alice@a.example --ha1 00",
            "tandem user add alice@a.example --as 100@a.example",
            "tandem user add alice@a.example --password x --ha1 00112233445566778899aabbccddeeff",
            "tandem route test",
            "tandem route test 1 --at noon",
            "tandem frobnicate",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
