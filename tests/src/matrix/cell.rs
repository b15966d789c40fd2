//! What the matrix is made of: clients, servers, modes, and what each way to the servers came to.

use std::{collections::BTreeMap, fmt};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::{
    program::Program,
    stack::{self, ServerStack},
};

/// A TLS client stack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum ClientStack {
    /// `openssl s_client`, a process per connection.
    Openssl,
    /// GnuTLS.
    Gnutls,
    /// Go's crypto/tls.
    Go,
    /// JSSE of the JDK.
    Java,
    /// rustls with its default provider and post-quantum key share.
    Rustls,
    /// Python's ssl module.
    Python,
    /// Node.js.
    Node,
    /// libcurl with OpenSSL.
    Curl,
    /// Chromium without a window; only named where it is not installed.
    Chromium,
}

/// A TLS version and how its sessions are named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Mode {
    /// TLS 1.2, session IDs, tickets off.
    Id12,
    /// TLS 1.2 tickets, a private key per server.
    Ticket12,
    /// TLS 1.3 tickets, a private key per server.
    Ticket13,
    /// TLS 1.3 tickets, a key file per server, whose name the gateway knows.
    Named13,
}

/// A TLS version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// A way to the servers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Column {
    /// One server without anything in between: the best that the two stacks reach.
    Direct,
    /// Plain kernel layer 4 with source-address persistence.
    L4,
    /// HAProxy in TCP mode with its SSL-ID stick table, repaired.
    Haproxy,
    /// steer.
    Steer,
    /// steer that is not told where key names stand.
    Auto,
}

impl Column {
    /// The ways that are compared, in the order they are run and shown.
    pub const WAYS: [Self; 4] = [Self::Direct, Self::L4, Self::Haproxy, Self::Steer];
    /// What is compared behind a balancer that stays: plain layer 4 is its own.
    pub const INLINE: [Self; 3] = [Self::Direct, Self::L4, Self::Steer];
    /// What is compared where `ticket_key_name = "auto"` is judged.
    pub const LAYOUTS: [Self; 3] = [Self::Direct, Self::Steer, Self::Auto];
}

impl ClientStack {
    /// What it is run by.
    pub(super) fn program(self) -> Program {
        match self {
            Self::Openssl => Program::Machine { name: "openssl", asked: &["version"], with: &[] },
            Self::Gnutls => stack::GNUTLS,
            Self::Go => stack::GO,
            Self::Java => stack::JAVA,
            Self::Rustls => Program::Crate("rustls"),
            Self::Python => Program::Machine {
                name: "python3",
                asked: &[
                    "-c",
                    "import platform, ssl; print('Python', platform.python_version(), ssl.OPENSSL_VERSION)",
                ],
                with: &[],
            },
            Self::Node => stack::NODE,
            Self::Curl => Program::Libraries {
                package: "pycurl==7.49.0",
                file: "pycurl.libs",
                asked: "import ctypes, glob, sys; curl = ctypes.CDLL(glob.glob(sys.argv[1] + '/libcurl-*')[0]); \
                        curl.curl_version.restype = ctypes.c_char_p; print(*curl.curl_version().decode().split()[:2])",
            },
            // As `tests/peers/chromium/client.py` starts it: without Debian's wrapper, which reads
            // settings of the machine.
            Self::Chromium => Program::Machine {
                name: "/usr/lib/chromium/chromium",
                asked: &["--version"],
                with: &["certutil", "pk12util"],
            },
        }
    }

    /// Whether it loads pages, and offers TLS 1.2 and 1.3 in every mode.
    pub(super) fn is_browser(self) -> bool {
        self == Self::Chromium
    }
}

impl Mode {
    /// Its TLS version.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Id12 | Self::Ticket12 => Protocol::Tls12,
            Self::Ticket13 | Self::Named13 => Protocol::Tls13,
        }
    }

    /// Whether servers issue tickets.
    pub fn tickets(self) -> bool {
        self != Self::Id12
    }
}

impl Protocol {
    /// The word that the peers understand.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tls12 => "tls1.2",
            Self::Tls13 => "tls1.3",
        }
    }
}

impl fmt::Display for ClientStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(word(self).as_str())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(word(self).as_str())
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::L4 => "l4",
            Self::Haproxy => "haproxy",
            Self::Steer => "steer",
            Self::Auto => "auto",
        })
    }
}

/// The word on the command line.
pub(super) fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What a client got on one way.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Reconnects that offered a session.
    pub offered: usize,
    /// Those the server resumed, in the client's own view.
    pub resumed: usize,
    /// Connections that failed.
    pub errors: usize,
    /// What the first of them said.
    pub sample: Option<String>,
}

impl Tally {
    /// Nothing worked.
    pub fn failed(offered: usize, why: String) -> Self {
        Self { offered, resumed: 0, errors: 1, sample: Some(why) }
    }

    fn object(&self) -> Value {
        json!({ "offered": self.offered, "resumed": self.resumed, "errors": self.errors })
    }
}

/// Offers that finding out where key names stand may cost.
const AUTO_LOSES: usize = 4;

/// One client stack against one server stack in one mode.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The client.
    pub client: ClientStack,
    /// The servers.
    pub server: ServerStack,
    /// The mode.
    pub mode: Mode,
    /// Why no gateway could serve this, where that is so.
    pub reason: Option<String>,
    /// Whether a stack of it is not to be had here, which is the reason then.
    pub not_run: bool,
    /// What the stacks say that their versions are: the client's and the server's.
    pub versions: [String; 2],
    /// What was measured.
    pub tallies: BTreeMap<Column, Tally>,
}

impl Cell {
    /// A cell in which nothing is measured yet.
    pub fn new(client: ClientStack, server: ServerStack, mode: Mode) -> Self {
        Self {
            client,
            server,
            mode,
            reason: None,
            not_run: false,
            versions: [String::new(), String::new()],
            tallies: BTreeMap::new(),
        }
    }

    /// Takes what was measured on a way; two stacks that resume nothing directly cannot be served.
    pub fn take(&mut self, column: Column, tally: Tally) {
        // An error says that the lab is broken, not that these stacks cannot resume.
        if column == Column::Direct && tally.resumed == 0 && tally.errors == 0 {
            self.reason = Some(match tally.offered {
                0 => "the client gets no session to offer".to_owned(),
                _ => "none is resumed directly, either".to_owned(),
            });
        }
        self.tallies.insert(column, tally);
    }

    /// Whether steer did what can be done: as many as directly; of private TLS 1.3 tickets 99 % of
    /// them. Where it was also run without being told where key names stand: [`AUTO_LOSES`] less at
    /// most than where it was.
    ///
    /// A cell whose direct connections fail proves nothing and does not hold.
    pub fn holds(&self) -> bool {
        if self.reason.is_some() {
            return true;
        }
        let (Some(direct), Some(steer)) =
            (self.tallies.get(&Column::Direct), self.tallies.get(&Column::Steer))
        else {
            return false;
        };
        if let Some(auto) = self.tallies.get(&Column::Auto) {
            return auto.resumed + AUTO_LOSES >= steer.resumed
                && direct.errors + steer.errors + auto.errors == 0;
        }
        let enough = match self.mode {
            Mode::Ticket13 => steer.resumed * 100 >= direct.resumed * 99,
            Mode::Id12 | Mode::Ticket12 | Mode::Named13 => steer.resumed >= direct.resumed,
        };
        enough && direct.errors == 0 && steer.errors == 0
    }

    /// The cell as one JSON object.
    pub fn object(&self) -> Value {
        let tally = |column| self.tallies.get(&column).cloned().unwrap_or_default().object();
        json!({
            "client": self.client.to_string(),
            "server": self.server.to_string(),
            "client_version": self.versions[0],
            "server_version": self.versions[1],
            "mode": self.mode.to_string(),
            "servable": self.reason.is_none(),
            "reason": self.reason,
            "direct": tally(Column::Direct),
            "steer": tally(Column::Steer),
            "l4": tally(Column::L4),
            "haproxy": tally(Column::Haproxy),
            "auto": tally(Column::Auto),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: ServerStack = stack::STACKS[0];

    fn cell(mode: Mode, direct: usize, steer: usize) -> Cell {
        let tally = |resumed| Tally { offered: 200, resumed, ..Tally::default() };
        let mut cell = Cell::new(ClientStack::Go, NGINX, mode);
        cell.take(Column::Direct, tally(direct));
        cell.take(Column::Steer, tally(steer));
        cell
    }

    #[test]
    fn steer_must_resume_as_many_as_directly() {
        assert!(cell(Mode::Id12, 200, 200).holds());
        assert!(!cell(Mode::Id12, 200, 199).holds());
        assert!(cell(Mode::Id12, 150, 150).holds());
    }

    #[test]
    fn of_private_tls13_tickets_one_in_a_hundred_may_be_lost() {
        assert!(cell(Mode::Ticket13, 200, 198).holds());
        assert!(!cell(Mode::Ticket13, 200, 197).holds());
        assert!(!cell(Mode::Named13, 200, 198).holds());
    }

    #[test]
    fn finding_out_where_names_stand_may_cost_four_offers() {
        let auto = |resumed| {
            let mut cell = cell(Mode::Ticket13, 200, 190);
            cell.take(Column::Auto, Tally { offered: 200, resumed, ..Tally::default() });
            cell
        };
        assert!(auto(186).holds() && !auto(185).holds());
    }

    #[test]
    fn what_resumes_nothing_directly_cannot_be_served() {
        let cell = cell(Mode::Ticket12, 0, 0);
        assert!(cell.holds());
        assert_eq!(cell.object()["servable"], false);
        assert_eq!(cell.object()["reason"], "none is resumed directly, either");
    }

    #[test]
    fn stacks_whose_direct_connections_fail_prove_nothing() {
        let mut cell = Cell::new(ClientStack::Go, NGINX, Mode::Ticket12);
        cell.take(Column::Direct, Tally::failed(12, "bad certificate".to_owned()));
        cell.take(Column::Steer, Tally { offered: 12, resumed: 12, ..Tally::default() });
        assert!(!cell.holds());
        assert_eq!(cell.object()["servable"], true);
    }

    #[test]
    fn a_servable_cell_that_steer_never_ran_in_does_not_hold() {
        let mut cell = Cell::new(ClientStack::Go, NGINX, Mode::Ticket12);
        cell.take(Column::Direct, Tally { offered: 12, resumed: 12, ..Tally::default() });
        assert!(!cell.holds());
        assert_eq!(cell.object()["reason"], Value::Null);
    }
}
