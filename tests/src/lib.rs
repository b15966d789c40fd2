//! The lab in which steer is judged: network namespaces, real TLS peers, the plain-kernel rival,
//! and odd packets.
//!
//! Read it in the order a test uses it: [`scenario`] describes what is wanted and starts it;
//! [`topology`] builds the namespaces and links, [`netns`] is one namespace; [`pki`], [`nginx`] and
//! [`client`] are the TLS ends; [`agent`] runs steer, [`l4`] and [`haproxy`] its rivals, [`balancer`] one in front of it;
//! [`kernel_counters`] and [`loss`] judge and disturb; [`packets`] and [`frames`] make and send
//! segments that no kernel would, [`flood`] many of them, [`icmp_errors`] errors. [`programs`] runs
//! packets through the loaded programs without any link, on flows of [`ends`]; [`detour`] reorders
//! what clients send, [`weather`] and [`relay`] disturb both directions, [`traces`] tells what
//! steer left on the machine. [`setting`] and [`case`] are what the tests of faults share,
//! [`tables`] counts entries, [`recorder`] makes captures; [`talk`] holds both ends of plain TCP connections; [`cluster`] is
//! two gateways, of which one fails; [`demo`] is the whole of it for people, [`soak`] for minutes under chaos, [`live`] in other kernels, [`matrix`]
//! judges steer with other TLS stacks at both ends, [`rotation`] with servers that change their
//! ticket keys, [`matrix::visits`] with clients that change their addresses.

pub mod agent;
pub mod balancer;
pub mod bench;
pub mod case;
pub mod client;
pub mod cluster;
pub mod demo;
pub mod detour;
pub mod ends;
pub mod flood;
pub mod frames;
pub mod haproxy;
pub mod icmp_errors;
pub mod kernel_counters;
pub mod l4;
pub mod live;
pub mod loss;
pub mod matrix;
pub mod monitoring;
pub mod netns;
pub mod nginx;
pub mod packets;
pub mod payload;
pub mod pieces;
pub mod pki;
pub mod process;
pub mod programs;
pub mod recorder;
pub mod relay;
pub mod rotation;
pub mod scenario;
pub mod setting;
pub mod soak;
pub mod street;
pub mod tables;
pub mod talk;
pub mod topology;
pub mod traces;
pub mod weather;
