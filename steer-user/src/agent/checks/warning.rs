//! What a warning is, by itself: control socket, metric and fuzzers need no more.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that needs attention.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Warning {
    /// Of which kind it is.
    pub kind: Kind,
    /// What is wrong with whom, and what helps: the same words for as long as it lasts.
    pub text: String,
}

/// Kinds of warnings: the labels of the metric `steer_warning`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The kernel does not look up routes.
    Forwarding,
    /// The kernel drops packets whose way back leads elsewhere.
    ReversePath,
    /// The kernel tells hosts a way that leads past the gateway.
    Redirects,
    /// A managed interface is not there.
    InterfaceGone,
    /// A managed interface carries no Ethernet header.
    NotEthernet,
    /// A bridge, or a port of one, is not as the programs need it.
    Bridge,
    /// The kernel shows packets at a bridge to its packet filter.
    BridgeNetfilter,
    /// Frames to a backend come with the tags of two VLANs.
    VlanAmbiguous,
    /// A program that should be attached is not.
    Detached,
    /// A program of somebody else sees packets before ours.
    OtherProgram,
    /// Another gateway is at the same interface or VIP.
    OtherGateway,
    /// IPsec policies that steered packets pass by.
    Ipsec,
    /// Answers of a backend do not come back through here.
    ReturnPath,
    /// One source makes most flows of a VIP.
    OneSource,
    /// No backend of a VIP takes new flows.
    NoBackend,
    /// Several backends use one ticket key.
    SharedKeyName,
    /// Backends of one pool agree to different TCP options.
    OptionsDiffer,
    /// A balancer gives a member of an inline pool nothing any more.
    OutOfRotation,
    /// What the gateway knows cannot be written to its file.
    StateFile,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::Forwarding,
        Self::ReversePath,
        Self::Redirects,
        Self::InterfaceGone,
        Self::NotEthernet,
        Self::Bridge,
        Self::BridgeNetfilter,
        Self::VlanAmbiguous,
        Self::Detached,
        Self::OtherProgram,
        Self::OtherGateway,
        Self::Ipsec,
        Self::ReturnPath,
        Self::OneSource,
        Self::NoBackend,
        Self::SharedKeyName,
        Self::OptionsDiffer,
        Self::OutOfRotation,
        Self::StateFile,
    ];

    /// The word in metric and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Forwarding => "forwarding",
            Self::ReversePath => "reverse-path",
            Self::Redirects => "redirects",
            Self::InterfaceGone => "interface-gone",
            Self::NotEthernet => "not-ethernet",
            Self::Bridge => "bridge",
            Self::BridgeNetfilter => "bridge-netfilter",
            Self::VlanAmbiguous => "vlan-ambiguous",
            Self::Detached => "detached",
            Self::OtherProgram => "other-program",
            Self::OtherGateway => "other-gateway",
            Self::Ipsec => "ipsec",
            Self::ReturnPath => "return-path",
            Self::OneSource => "one-source",
            Self::NoBackend => "no-backend",
            Self::SharedKeyName => "shared-key-name",
            Self::OptionsDiffer => "options-differ",
            Self::OutOfRotation => "out-of-rotation",
            Self::StateFile => "state-file",
        }
    }
}

impl Warning {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
