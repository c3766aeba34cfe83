//! The addresses of this machine, and which of them datagrams leave from.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use nix::ifaddrs::getifaddrs;

/// Routes beyond these are not looked at: a machine that has so many is a router.
const NETWORKS_MAX: usize = 512;
/// Stand for every network that no other route leads to. Addresses of documentation: nothing is sent there.
const ANYBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// A network, and the address that the kernel gives to what leaves for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceFor {
    pub network: IpAddr,
    pub prefix_bits: u8,
    pub source: IpAddr,
}

/// Every address of this machine with a number of its interface, which addresses of one interface share; none if the kernel
/// does not tell.
pub fn addresses() -> Vec<(IpAddr, u32)> {
    let mut names: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for one in getifaddrs().into_iter().flatten() {
        let Some(ip) = one.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        }) else {
            continue;
        };
        // "eth0:1" is a label on an address of eth0.
        let name = one.interface_name.split(':').next().unwrap_or_default();
        let number = names.iter().position(|known| known == name);
        let number = number.unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        found.push((ip, number as u32));
    }
    found
}

/// For every network that a route leads to, the address that the kernel would choose.
pub fn sources() -> Vec<SourceFor> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let v4 = read("/proc/net/route");
    let v6 = read("/proc/net/ipv6_route");
    let mut networks: Vec<(IpAddr, u8)> = v4
        .lines()
        .filter_map(network_v4)
        .chain(v6.lines().filter_map(network_v6))
        .collect();
    networks.sort_unstable();
    networks.dedup();
    networks.truncate(NETWORKS_MAX);
    let sockets = [
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok(),
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok(),
    ];
    let asked = |(network, prefix_bits): (IpAddr, u8)| {
        let [v4, v6] = &sockets;
        let socket = if network.is_ipv4() { v4 } else { v6 }.as_ref()?;
        // To connect a datagram socket sends nothing. 9 is the port of `discard`; any would do.
        socket.connect((within(network, prefix_bits), 9)).ok()?;
        let source = socket.local_addr().ok()?.ip();
        Some(SourceFor {
            network,
            prefix_bits,
            source,
        })
    };
    networks.into_iter().filter_map(asked).collect()
}

/// Some address of a network.
fn within(network: IpAddr, prefix_bits: u8) -> IpAddr {
    match network {
        _ if prefix_bits == 0 => ANYBODY[usize::from(network.is_ipv6())],
        IpAddr::V4(ip) if prefix_bits < 32 => Ipv4Addr::from(ip.to_bits() | 1).into(),
        IpAddr::V6(ip) if prefix_bits < 128 => Ipv6Addr::from(ip.to_bits() | 1).into(),
        whole => whole,
    }
}

/// Bits of a route's flags (linux/route.h, linux/ipv6_route.h).
const RTF_UP: u32 = 1;
const RTF_REJECT: u32 = 0x200;
const RTF_LOCAL: u32 = 0x8000_0000;

fn leads(flags: &str) -> Option<()> {
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (flags & (RTF_UP | RTF_REJECT | RTF_LOCAL) == RTF_UP).then_some(())
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`, numbers as they lie in memory.
fn network_v4(line: &str) -> Option<(IpAddr, u8)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    leads(fields.get(3)?)?;
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let ip = Ipv4Addr::from(number(1)?.to_ne_bytes());
    Some((ip.into(), number(7)?.count_ones() as u8))
}

/// `destination bits source bits gateway metric refcnt use flags iface`, in hex.
fn network_v6(line: &str) -> Option<(IpAddr, u8)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    leads(fields.get(8)?)?;
    let ip = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    // From one interface among several there is no way without its name.
    (!ip.is_multicast() && !ip.is_unicast_link_local()).then_some(())?;
    Some((ip.into(), u8::from_str_radix(fields.get(1)?, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_an_address_of_every_machine() {
        let found = addresses();
        assert!(
            found.iter().any(|(ip, _)| *ip == Ipv4Addr::LOCALHOST),
            "{found:?}"
        );
    }

    #[test]
    fn every_source_is_an_address_of_this_machine() {
        let own = addresses();
        for way in sources() {
            assert!(own.iter().any(|(ip, _)| *ip == way.source), "{way:?}");
        }
    }

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let v4 = |line| network_v4(line).map(|(ip, bits)| format!("{ip}/{bits}"));
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
            "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
            "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
            "*\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF\t0\t0\t0",
        ];
        // As they lie in memory: on a machine of the other order the kernel writes them otherwise.
        if cfg!(target_endian = "little") {
            assert_eq!(
                table.map(v4),
                [
                    None,
                    Some("0.0.0.0/0".into()),
                    Some("192.0.2.0/24".into()),
                    None
                ]
            );
        }
        let v6 = |net, flags| {
            let none = "00000000000000000000000000000000";
            let line = format!("{net} 40 {none} 00 {none} 00000100 00000001 00000000 {flags} eth0");
            network_v6(&line).map(|(ip, bits)| format!("{ip}/{bits}"))
        };
        let net = "20010db8000000000000000000000000";
        assert_eq!(v6(net, "00000001"), Some("2001:db8::/64".into()));
        assert_eq!(v6(net, "80200001"), None, "an address of our own");
        assert_eq!(v6("fe800000000000000000000000000000", "00000001"), None);
    }
}
